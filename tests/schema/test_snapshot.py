"""`schema/schema.graphql` is the printed schema, and everything in it is explained."""

from __future__ import annotations

from collections.abc import Iterator

from graphql import (
    GraphQLEnumType,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLObjectType,
    build_schema,
    is_specified_scalar_type,
)

from schema import sdl
from tests.checks import SNAPSHOT


def test_the_snapshot_is_the_printed_schema() -> None:
    assert SNAPSHOT.read_text() == sdl(), "run `python -m tests.checks --write` and review what changed"


def test_everything_is_explained() -> None:
    assert list(_unexplained()) == []


def _unexplained() -> Iterator[str]:
    for name, kind in build_schema(sdl()).type_map.items():
        if name.startswith("__") or is_specified_scalar_type(kind):
            continue
        if not kind.description:
            yield name
        if isinstance(kind, GraphQLEnumType):
            yield from (f"{name}.{value}" for value, told in kind.values.items() if not told.description)
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType | GraphQLInputObjectType):
            yield from (f"{name}.{field}" for field, told in kind.fields.items() if not told.description)
        if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
            for field, told in kind.fields.items():
                yield from (f"{name}.{field}({one}:)" for one, value in told.args.items() if not value.description)
