"""What of the public contract a printed schema lacks. `contract.graphql` is what clients were promised.

Every type, field, argument, input field, enum value, interface and default of the contract has to be there, of exactly
the same type. More is welcome, unless it breaks a client: an argument or input field that was added and is required.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLInputField,
    GraphQLInputObjectType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLSchema,
    build_schema,
    is_required_argument,
    is_required_input_field,
    print_ast,
)

FOLDER = Path(__file__).parent
CONTRACT = FOLDER / "contract.graphql"
#: What is not built yet, a line each. Lines only ever leave this file.
MISSING = FOLDER / "contract_missing.txt"

Given = dict[str, GraphQLArgument] | dict[str, GraphQLInputField]


def load(text: str) -> GraphQLSchema:
    """A schema from its text."""
    return build_schema(text)


def differences(contract: GraphQLSchema, printed: GraphQLSchema) -> list[str]:
    """A line for each promise that is not kept, sorted."""
    return sorted(_of_schema(contract, printed))


def _of_schema(contract: GraphQLSchema, printed: GraphQLSchema) -> Iterator[str]:
    for name, promised in contract.type_map.items():
        if name.startswith("__"):
            continue
        if (built := printed.type_map.get(name)) is None:
            yield f"{name}: missing"
        elif type(built) is not type(promised):
            yield f"{name}: another kind of type"
        else:
            yield from _of_type(name, promised, built)


def _of_type(name: str, promised: GraphQLNamedType, built: GraphQLNamedType) -> Iterator[str]:
    if isinstance(promised, GraphQLEnumType) and isinstance(built, GraphQLEnumType):
        yield from (f"{name}.{value}: missing" for value in promised.values.keys() - built.values.keys())
    elif isinstance(promised, GraphQLInputObjectType) and isinstance(built, GraphQLInputObjectType):
        if promised.is_one_of != built.is_one_of:
            yield f"{name}: differs in @oneOf"
        yield from _of_values(f"{name}.{{}}", promised.fields, built.fields)
    elif isinstance(promised, GraphQLObjectType | GraphQLInterfaceType) and isinstance(
        built, GraphQLObjectType | GraphQLInterfaceType
    ):
        has = {interface.name for interface in built.interfaces}
        for interface in promised.interfaces:
            if interface.name not in has:
                yield f"{name}: does not implement {interface.name}"
        for field_name, field in promised.fields.items():
            if (built_field := built.fields.get(field_name)) is None:
                yield f"{name}.{field_name}: missing"
                continue
            if str(built_field.type) != str(field.type):
                yield f"{name}.{field_name}: {built_field.type} instead of {field.type}"
            if built_field.deprecation_reason and not field.deprecation_reason:
                yield f"{name}.{field_name}: deprecated"
            yield from _of_values(f"{name}.{field_name}({{}}:)", field.args, built_field.args)


def _of_values(where: str, promised: Given, built: Given) -> Iterator[str]:
    for name, value in promised.items():
        other = built.get(name)
        if other is None:
            yield f"{where.format(name)}: missing"
            continue
        if str(other.type) != str(value.type):
            yield f"{where.format(name)}: {other.type} instead of {value.type}"
        if _default(other) != _default(value):
            yield f"{where.format(name)}: default {_default(other)} instead of {_default(value)}"
    for name, other in built.items():
        required = is_required_argument(other) if isinstance(other, GraphQLArgument) else is_required_input_field(other)
        if name not in promised and required:
            yield f"{where.format(name)}: added and required"


def _default(value: GraphQLArgument | GraphQLInputField) -> str:
    """As it is written. No default and a default of null come to the same."""
    node = value.ast_node.default_value if value.ast_node else None
    return print_ast(node) if node else "null"
