"""What an operation costs, in points: before it runs by what it may answer, afterwards by what it did answer.

An object is a point, a scalar nothing. A list is as many times its item as were asked for, and a point for itself; the
wrappers around it (`edges`, `pageInfo`) are free. A total takes a statement of its own, so it is ten points. A mutation
is ten, and one for each row that it is given. A subscription is ten when it begins.

A plan is drawn once per operation and kept with its document; a request only puts its variables in. Selections that
answer under one name are planned together, and a selection that many fragments lead to is planned once, so the work is
bounded by the document's length however its fragments are nested.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from graphql import (
    FieldNode,
    FragmentDefinitionNode,
    FragmentSpreadNode,
    GraphQLEnumType,
    GraphQLInterfaceType,
    GraphQLNamedType,
    GraphQLObjectType,
    GraphQLScalarType,
    GraphQLSchema,
    InlineFragmentNode,
    IntValueNode,
    ListValueNode,
    ObjectValueNode,
    OperationDefinitionNode,
    SelectionSetNode,
    ValueNode,
    VariableNode,
    get_named_type,
    is_list_type,
    is_non_null_type,
)

from app.paging import DEFAULT_SIZE, LARGEST_SIZE
from schema.guards import QueryTooComplex

#: The most that one operation may cost before it runs.
MOST: Final = 10_000
MUTATION: Final = 10
SUBSCRIPTION: Final = 10
TOTAL: Final = 10
INTROSPECTION: Final = 100
#: Items of a list without pages: a delivery has at most a dozen attempts.
SHORT_LIST: Final = 10
#: Selections visited while a plan is drawn.
MOST_STEPS: Final = 20_000

Variables: TypeAlias = Mapping[str, Any]
#: How often a field's selection is answered, given the variables and the size of the page around it.
Times: TypeAlias = Callable[[Variables, int], int]


@dataclass(slots=True)
class Plan:
    """One answered name: `base` points, and `times` its items of `each` points and their fields."""

    base: int
    each: int = 0
    times: Sequence[Times] = ()
    #: Extra points that depend on the variables.
    extra: Sequence[Times] = ()
    #: Whether it is a connection, whose size its `edges` and `nodes` repeat.
    pages: bool = False
    fields: Fields = field(default_factory=dict)


Fields: TypeAlias = dict[str, Plan]


def asked(plan: Fields, variables: Variables) -> int:
    """The points of an operation before it runs; at least one."""
    known: dict[tuple[int, int], int] = {}

    def of(fields: Fields, size: int) -> int:
        key = (id(fields), size)
        if key not in known:
            known[key] = sum(of_field(one, size) for one in fields.values())
        return known[key]

    def of_field(one: Plan, size: int) -> int:
        points = one.base + sum(extra(variables, size) for extra in one.extra)
        if one.pages:
            return points + of(one.fields, max((times(variables, size) for times in one.times), default=0))
        times = max((times(variables, size) for times in one.times), default=1)
        return points + times * (one.each + (of(one.fields, size) if one.fields else 0))

    return max(1, of(plan, 1))


def answered(plan: Fields, variables: Variables, data: Mapping[str, Any] | None) -> int:
    """The points of what came back; at least one."""

    def of(fields: Fields, values: Mapping[str, Any]) -> int:
        points = 0
        for name, one in fields.items():
            if name not in values:
                continue
            points += one.base
            for extra in one.extra:
                points += extra(variables, 1)
            value = values[name]
            if value is None:
                continue
            if type(value) is list:
                points += one.each * len(value)
                if one.fields:
                    for item in value:
                        if item is not None:
                            points += of(one.fields, item)
            elif one.fields:
                points += of(one.fields, value)
        return points

    return max(1, of(plan, data)) if data else 1


def draw(
    schema: GraphQLSchema, operation: OperationDefinitionNode, fragments: Mapping[str, FragmentDefinitionNode]
) -> Fields:
    """The plan of a valid operation. QueryTooComplex when its fragments are woven beyond measure."""
    root = schema.get_root_type(operation.operation)
    assert root is not None
    return _Draft(schema, operation, fragments).fields([(root, operation.selection_set)])


_Selections: TypeAlias = list[tuple[GraphQLNamedType, SelectionSetNode]]


class _Draft:
    def __init__(
        self,
        schema: GraphQLSchema,
        operation: OperationDefinitionNode,
        fragments: Mapping[str, FragmentDefinitionNode],
    ) -> None:
        self._schema = schema
        self._operation = operation
        self._fragments = fragments
        self._defaults = {
            one.variable.name.value: _constant(one.default_value)
            for one in operation.variable_definitions or ()
            if one.default_value is not None
        }
        self._drawn: dict[frozenset[tuple[str, int]], Fields] = {}
        self._steps = 0

    def fields(self, selections: _Selections) -> Fields:
        """Everything that is answered inside one object."""
        key = frozenset((parent.name, id(selection)) for parent, selection in selections)
        if key in self._drawn:
            return self._drawn[key]
        fields: Fields = {}
        self._drawn[key] = fields
        together: dict[str, list[tuple[GraphQLNamedType, FieldNode]]] = {}
        spread: set[str] = set()
        for parent, selection in selections:
            self._gather(parent, selection, together, spread)
        for name, nodes in together.items():
            if (plan := self._plan(nodes)) is not None:
                fields[name] = plan
        return fields

    def _gather(
        self,
        parent: GraphQLNamedType,
        selections: SelectionSetNode,
        together: dict[str, list[tuple[GraphQLNamedType, FieldNode]]],
        spread: set[str],
    ) -> None:
        for selection in selections.selections:
            self._steps += 1
            if self._steps > MOST_STEPS:
                raise QueryTooComplex("The fragments are woven too densely: write the fields out.")
            if isinstance(selection, FieldNode):
                together.setdefault((selection.alias or selection.name).value, []).append((parent, selection))
            elif isinstance(selection, InlineFragmentNode):
                inner = selection.type_condition
                within = self._schema.get_type(inner.name.value) if inner is not None else parent
                self._gather(within or parent, selection.selection_set, together, spread)
            elif isinstance(selection, FragmentSpreadNode) and selection.name.value not in spread:
                spread.add(selection.name.value)
                fragment = self._fragments[selection.name.value]
                within = self._schema.get_type(fragment.type_condition.name.value)
                self._gather(within or parent, fragment.selection_set, together, spread)

    def _plan(self, nodes: list[tuple[GraphQLNamedType, FieldNode]]) -> Plan | None:
        """One answered name; None when it is free."""
        parent, first = nodes[0]
        name = first.name.value
        if name.startswith("__"):
            return None if name == "__typename" else Plan(INTROSPECTION)
        if not isinstance(parent, GraphQLObjectType | GraphQLInterfaceType):
            return None
        definition = parent.fields[name]
        kind = get_named_type(definition.type)
        if isinstance(kind, GraphQLScalarType | GraphQLEnumType):
            return Plan(TOTAL) if name == "totalCount" else None
        inner: _Selections = []
        for _, node in nodes:
            if node.selection_set is not None:
                inner.append((kind, node.selection_set))
        many = is_list_type(definition.type.of_type if is_non_null_type(definition.type) else definition.type)
        plan = self._shape(parent, name, kind, [node for _, node in nodes], many)
        plan.fields = self.fields(inner)
        return plan

    def _shape(
        self, parent: GraphQLNamedType, name: str, kind: GraphQLNamedType, nodes: list[FieldNode], many: bool
    ) -> Plan:
        schema = self._schema
        if kind.name.endswith("Connection"):
            plan = Plan(1, times=[self._size(node, ("first", "last")) for node in nodes], pages=True)
        elif parent.name.endswith("Connection"):
            plan = Plan(0, each=int(name == "nodes"), times=[_around] if many else [])
        elif parent is schema.query_type and name == "nodes":
            plan = Plan(0, each=1, times=[self._length(node, "ids") for node in nodes])
        elif parent is schema.query_type and name == "punchFeed":
            plan = Plan(1, pages=True, times=[self._size(node, ("first",)) for node in nodes])
        elif parent is schema.mutation_type:
            plan = Plan(MUTATION, extra=[self._rows(node) for node in nodes])
        elif parent is schema.subscription_type:
            plan = Plan(SUBSCRIPTION, pages=True, times=[_none])
        elif many:
            plan = Plan(0, each=1, times=[_around if parent.name == "PunchBatch" else _short])
        else:
            plan = Plan(1)
        return plan

    def _size(self, node: FieldNode, names: tuple[str, ...]) -> Times:
        """The size of a page, by the first of these arguments that is given."""
        reads = [self._read(node, name) for name in names]

        def times(variables: Variables, _: int) -> int:
            for read in reads:
                size = read(variables)
                if isinstance(size, int):
                    return min(max(size, 0), LARGEST_SIZE)
            return DEFAULT_SIZE

        return times

    def _length(self, node: FieldNode, name: str) -> Times:
        read = self._read(node, name)

        def times(variables: Variables, _: int) -> int:
            value = read(variables)
            return min(len(value), LARGEST_SIZE) if isinstance(value, list) else 1

        return times

    def _rows(self, node: FieldNode) -> Times:
        """A point for each element of the lists right inside a mutation's input."""
        read = self._read(node, "input")

        def times(variables: Variables, _: int) -> int:
            value = read(variables)
            if not isinstance(value, dict):
                return 0
            return max((len(each) for each in value.values() if isinstance(each, list)), default=0)

        return times

    def _read(self, node: FieldNode, name: str) -> Callable[[Variables], Any]:
        """The value of an argument for given variables, as far as costs need it: numbers, and the shape of lists."""
        given = next((argument.value for argument in node.arguments or () if argument.name.value == name), None)
        if isinstance(given, VariableNode):
            variable = given.name.value
            default = self._defaults.get(variable)
            return lambda variables: variables.get(variable, default)
        if isinstance(given, ObjectValueNode):
            parts = {one.name.value: one.value for one in given.fields}
            constants = {key: _constant(value) for key, value in parts.items()}
            named = {key: value.name.value for key, value in parts.items() if isinstance(value, VariableNode)}
            defaults = self._defaults
            return lambda variables: (
                constants | {key: variables.get(place, defaults.get(place)) for key, place in named.items()}
            )
        constant = _constant(given)
        return lambda _: constant


def _constant(value: ValueNode | None) -> Any:
    if isinstance(value, IntValueNode):
        return int(value.value) if len(value.value) < 12 else LARGEST_SIZE
    if isinstance(value, ListValueNode):
        return list(value.values)
    if isinstance(value, ObjectValueNode):
        return {one.name.value: _constant(one.value) for one in value.fields}
    return None


def _around(_: Variables, size: int) -> int:
    return size


def _short(_: Variables, __: int) -> int:
    return SHORT_LIST


def _none(_: Variables, __: int) -> int:
    return 0
