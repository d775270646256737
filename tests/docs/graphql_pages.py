"""docs/reference/graphql.md, out of the schema. `python -m tests.checks --write` renews it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from graphql import (
    FieldNode,
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLUnionType,
    NameNode,
    OperationDefinitionNode,
    OperationType,
    SelectionSetNode,
    build_schema,
    parse,
    specified_scalar_types,
)
from graphql.language import print_ast
from graphql.utilities import ast_from_value

from schema import cost, sdl
from tests.docs import operation_examples

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "graphql.md"
_ROOTS: Final = ("Query", "Mutation", "Subscription")
_TITLES: Final = (
    ("Query", "Queries", "query"),
    ("Mutation", "Mutations", "mutation"),
    ("Subscription", "Subscriptions", "subscription"),
)
_HEAD: Final = """# GraphQL

Every field, argument, type and value of the API, as `schema/schema.graphql` has them. This page is written from the
schema, and `make check` compares the two. Every example is run by the tests as it stands here, with names of their own
where it says `<device id>` and the like. It opens in the playground of the server that you read this on.

Send operations as [GraphQL over HTTP](https://graphql.github.io/graphql-over-http/draft/) to `/graphql`, with
`Authorization: Bearer pc_live_…`. Lists are Relay connections: `first` and `after`, at most 100 at once. Mutations
answer `userErrors` for what you can act on; [each code has a page](errors/index.md).

`points` is what a field [costs](limits.md) by itself. Nothing stands for nothing. `items`: so many times what is asked
for in each of them, and a point for each. Where a list has pages, that is as many as `first` or `last` asks for, 50
unless given; where it has none, 10.

"""


def page() -> str:
    """The whole page."""
    schema = build_schema(sdl())
    parts = [_HEAD]
    for name, title, verb in _TITLES:
        root = schema.type_map.get(name)
        if isinstance(root, GraphQLObjectType):
            parts.append(f"## {title}\n\n")
            parts += [_root_field(verb, field_name, field) for field_name, field in root.fields.items()]
    kinds: tuple[tuple[str, type[GraphQLNamedType]], ...] = (
        ("Types", GraphQLObjectType),
        ("Interfaces", GraphQLInterfaceType),
        ("Unions", GraphQLUnionType),
        ("Inputs", GraphQLInputObjectType),
        ("Enums", GraphQLEnumType),
        ("Scalars", GraphQLScalarType),
    )
    for title, kind in kinds:
        found = [
            each
            for name, each in sorted(schema.type_map.items())
            if isinstance(each, kind)
            and not name.startswith("__")
            and name not in _ROOTS
            and name not in specified_scalar_types
        ]
        if found:
            parts.append(f"## {title}\n\n")
            parts += [_named(each) for each in found]
    return "".join(parts).rstrip("\n") + "\n"


def _root_field(verb: str, name: str, field: GraphQLField) -> str:
    text = f"### {name}\n\n{_said(field.description)}\n\nAnswers `{field.type}`.{_deprecated(field)}\n\n"
    if field.args:
        text += "| argument | type | default | |\n|---|---|---|---|\n"
        text += "".join(_argument(argument_name, argument) for argument_name, argument in field.args.items()) + "\n"
    if (example := operation_examples.find(verb, name)) is None:  # tests/schema/test_operation_examples.py says so
        return text
    variables = json.dumps(example.variables, indent=2, ensure_ascii=False) if example.variables else ""
    link = "/playground#" + urlencode({"query": example.document, **({"variables": variables} if variables else {})})
    text += f"```graphql\n{example.document}```\n\n"
    if variables:
        text += f"```json\n{variables}\n```\n\n"
    text += f"Costs {_most(example.document, variables)} points at most, as it stands here. "
    return text + f"[Try it in the playground]({link})\n\n"


def _argument(name: str, argument: GraphQLArgument) -> str:
    default = ast_from_value(argument.default_value, argument.type) if argument.default_value is not None else None
    shown = ""
    try:
        shown = f"`{print_ast(default)}`" if default is not None else ""
    except TypeError:
        shown = ""
    return f"| `{name}` | `{argument.type}` | {shown} | {_said(argument.description)} |\n"


def _named(kind: GraphQLNamedType) -> str:
    text = f"### {kind.name}\n\n{_said(kind.description)}\n\n"
    if isinstance(kind, GraphQLObjectType | GraphQLInterfaceType):
        if kind.interfaces:
            text += "Is a " + ", ".join(f"`{each.name}`" for each in kind.interfaces) + ".\n\n"
        text += "| field | type | points | |\n|---|---|---|---|\n"
        for name, field in kind.fields.items():
            arguments = "".join(
                f"<br>`{each}: {argument.type}` {_said(argument.description)}" for each, argument in field.args.items()
            )
            points = _points(kind, name)
            said = f"{_said(field.description)}{_deprecated(field)}{arguments}"
            text += f"| `{name}` | `{field.type}` | {points} | {said} |\n"
    elif isinstance(kind, GraphQLInputObjectType):
        text += "| field | type | |\n|---|---|---|\n"
        text += "".join(
            f"| `{name}` | `{each.type}` | {_said(each.description)} |\n" for name, each in kind.fields.items()
        )
    elif isinstance(kind, GraphQLEnumType):
        text += "| value | |\n|---|---|\n"
        text += "".join(f"| `{name}` | {_said(each.description)} |\n" for name, each in kind.values.items())
    elif isinstance(kind, GraphQLUnionType):
        text += "One of " + ", ".join(f"`{each.name}`" for each in kind.types) + ".\n"
    return text + "\n"


def _most(document: str, variables: str) -> int:
    """What the document may cost, by the program's own reckoning."""
    operation = parse(document).definitions[0]
    assert isinstance(operation, OperationDefinitionNode)
    return cost.asked(cost.draw(_schema(), operation, {}), json.loads(variables) if variables else {})


def _points(kind: GraphQLNamedType, name: str) -> str:
    """What a field costs by itself, in words; what is asked for inside it comes on top."""
    nothing = SelectionSetNode(selections=(FieldNode(name=NameNode(value="__typename")),))
    asked = SelectionSetNode(selections=(FieldNode(name=NameNode(value=name), arguments=(), selection_set=nothing),))
    whole = OperationDefinitionNode(operation=OperationType.QUERY, selection_set=asked)
    fields = cost._Draft(_schema(), whole, {}).fields([(kind, asked)])
    if (plan := fields.get(name)) is None:
        return ""
    if plan.pages:
        return f"{plan.base} + items"
    if plan.times:
        return "items" if plan.each else ""
    return str(plan.base + plan.each) if plan.base + plan.each else ""


@cache
def _schema() -> GraphQLSchema:
    return build_schema(sdl())


def _deprecated(field: GraphQLField) -> str:
    return f" **Deprecated:** {field.deprecation_reason}" if field.deprecation_reason else ""


def _said(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("<", "&lt;")
