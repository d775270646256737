"""graphql-core's executor with a short way for what most of an answer consists of.

A page of a hundred punches has some two thousand values, and nearly all of them are attributes of objects that are
there already. For each the executor would make a path, an account of the circumstances for the resolver, and several
checks of whether something has to be waited for. Here a field is looked at once, and its values are read:

- a leaf is read from its attribute and written by its type;
- an object in an attribute is gone into at once;
- a resolver is called without what Strawberry puts around it, with arguments that are worked out once for all objects;
- the items of a list are gone through here;
- what a list's objects lead to, by fields marked `ahead`, is loaded for all of them before the first is looked at, so
  that their resolvers find it there and nothing has to be waited for object by object.

What depends on the document alone, its plan, is kept with the document: see `Planned`. A subscription's is kept
with its executor, and not made anew for each of its events.

Whatever is out of the ordinary (a null where none may be, an exception, a value that does not fit its type) goes the
long way, from the beginning: errors are the executor's own. Answers are the same either way, which a test checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from math import isfinite
from operator import attrgetter
from types import CoroutineType
from typing import Any, Final, cast

import strawberry
from graphql import (
    DocumentNode,
    ExecutionResult,
    FragmentDefinitionNode,
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLError,
    GraphQLField,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLScalarType,
    GraphQLSchema,
    GraphQLString,
    OperationDefinitionNode,
    OperationType,
    Undefined,
    VariableNode,
    default_field_resolver,
    default_type_resolver,
    get_argument_values,
    get_variable_values,
)
from graphql.execution.collect_fields import FragmentDetails, collect_fields
from graphql.pyutils import Path
from graphql.type.definition import GraphQLResolveInfoHelpers
from strawberry.execution import optimized_is_awaitable
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.arguments import convert_arguments
from strawberry.types.field import StrawberryField

from schema.fields import AHEAD, SHOWN, Ahead, Shown

_DEFINITION: Final = "strawberry-definition"
#: Where a field of graphql-core keeps its Way.
_WAY: Final = "punchconnect-way"

Write = Callable[[Any], Any]


class _LongWay(Exception):
    """Out of the ordinary: let the executor see to it."""


@dataclass(frozen=True, slots=True)
class Way:
    """What is true of a field whatever its object. Nothing but Nones: it goes the long way."""

    #: From the object to what is answered.
    leaf: Write | None = None
    #: From the object to the object that its attribute holds.
    attribute: Callable[[Any], Any] | None = None
    #: A resolver, whether it wants Strawberry's Info, and whether it has arguments.
    resolver: Callable[..., Any] | None = None
    told: bool = False
    asks: bool = False
    ahead: Ahead | None = None
    #: From the context, and the key and what was loaded of it ahead, to what the resolver would return.
    shown: Shown | None = None
    field: StrawberryField | None = None
    #: The type of the one object that it leads to, the class of those objects where the type insists on one, and
    #: whether there may be none.
    kind: GraphQLObjectType | None = None
    origin: type | None = None
    nullable: bool = False
    #: Of a list: the type of its items.
    items: GraphQLOutputType | None = None


_LONG: Final = Way()


@dataclass(slots=True)
class _Step:
    """One answered name of a selection."""

    name: str
    details: Any
    field: GraphQLField
    way: Way
    #: What is selected of its object, or of each object of its list.
    inner: list[_Step] | None = None
    #: The resolver's arguments where they are the same for every operation.
    given: Mapping[str, Any] | None = None


@dataclass(slots=True)
class _Listed:
    """What the items of one list have in common."""

    item_type: Any
    details: Any
    path: Path
    #: graphql-core's account of the circumstances.
    info: Callable[[], Any]
    #: The type of its objects, their class where the type insists on one, and what is selected of each.
    kind: GraphQLObjectType | None
    origin: type | None
    plan: list[_Step]


@dataclass(slots=True)
class Planned:
    """What is true of an operation whatever its variables. It lives as long as its document."""

    operation: OperationDefinitionNode
    fragments: dict[str, FragmentDefinitionNode]
    details: dict[str, FragmentDetails]
    #: Whether the same is selected each time: nothing is skipped or included by a variable.
    steady: bool
    root: Any = None
    plans: dict[int, tuple[Any, list[_Step]]] = field(default_factory=dict)
    collected: dict[Any, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: DocumentNode, operation: OperationDefinitionNode) -> Planned:
        """Nothing is worked out yet: that happens as it is run."""
        fragments = {one.name.value: one for one in document.definitions if isinstance(one, FragmentDefinitionNode)}
        steady = document.loc is not None and "@" not in document.loc.source.body
        return cls(operation, fragments, {name: FragmentDetails(one) for name, one in fragments.items()}, steady)


class _Told(strawberry.Info[Any, Any]):
    """Strawberry's Info; what few resolvers look at is made when one does."""

    def __init__(self, executor: Executor, parent: GraphQLObjectType, path: Path, step: _Step) -> None:
        assert step.way.field is not None
        self._executor, self._parent, self._path, self._step = executor, parent, path, step
        self._field = step.way.field

    @property
    def context(self) -> Any:
        """As Strawberry has it."""
        return self._executor.context_value

    @property
    def _raw_info(self) -> Any:  # type: ignore[override]
        return self._executor.account(self._parent, self._path, self._step)


class Executor(StrawberryGraphQLCoreExecutionContext):
    """Made for each operation."""

    def __init__(self, *args: Any, planned: Planned | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._planned = planned if planned is not None and planned.steady else None
        #: By the identity of the collected fields, which are kept beside them: an identity is given again.
        self._plans: dict[int, tuple[Any, list[_Step]]] = {}
        #: What is selected at the root of a subscription, once it was collected.
        self._roots: list[Any] = []
        #: Arguments that depend on the variables, by the identity of their step.
        self._given: dict[int, Mapping[str, Any]] = {}
        #: What is loaded ahead, for fields with arguments, by the identities of their steps and their objects; and the
        #: object itself, so that its identity is not given again.
        self._wanted: dict[tuple[int, int], tuple[Any, tuple[str, Any]]] = {}
        if self._planned is not None:
            self._plans, self._relevant_sub_fields = self._planned.plans, self._planned.collected

    @property
    def async_helpers(self) -> GraphQLResolveInfoHelpers:
        """For resolvers. Made when wanted: kept, they and this would hold each other, and with them a whole answer."""
        return GraphQLResolveInfoHelpers(gather=self.gather_async_work, track=self.track_async_work)

    @async_helpers.setter
    def async_helpers(self, helpers: GraphQLResolveInfoHelpers) -> None:
        pass

    @classmethod
    def run(
        cls,
        schema: GraphQLSchema,
        planned: Planned,
        context: Any,
        variables: dict[str, Any],
        extensions: dict[str, Any] | None,
    ) -> Any:
        """The result of a valid query or mutation, or something to wait for it: as graphql-core's `execute`."""
        known = get_variable_values(schema, planned.operation.variable_definitions or (), variables)
        if isinstance(known, list):
            return ExecutionResult(None, known)
        return cls(
            schema,
            planned.fragments,
            planned.details,
            None,
            context,
            planned.operation,
            known,
            default_field_resolver,
            default_type_resolver,
            default_field_resolver,
            is_awaitable=optimized_is_awaitable,
            operation_extensions=extensions,
            planned=planned,
        ).execute_operation()

    def execute_operation(self, serially: bool | None = None) -> Any:
        """From the root, whose fields are collected once for all operations of the document, or for all events of one.

        graphql-core collects a subscription's anew at each event and remembers all that it ever collected, which in a
        feed that lives for days is without bound. An event's executor is a copy, so what is kept here is kept for all.
        """
        self._wanted = {}  # of the last event, whose executor this was copied from
        root = self._root()
        if root is None:
            return super().execute_operation(serially)
        try:
            data = self.execute_fields(root[0], self.root_value, None, root[1], None)
        except GraphQLError as exc:
            self.collected_errors.add(exc, None)
            data = None
        return self._result(data) if self.is_awaitable(data) else self.build_response(data)

    def _root(self) -> tuple[GraphQLObjectType, Any] | None:
        """The type and its fields; None where nothing is kept."""
        planned, schema = self._planned, self.schema
        if self.operation.operation is OperationType.QUERY and planned is not None and schema.query_type is not None:
            if planned.root is None:
                planned.root = self._collect(schema.query_type)
            return schema.query_type, planned.root
        if self.operation.operation is OperationType.SUBSCRIPTION and schema.subscription_type is not None:
            if not self._roots:
                self._roots.append(self._collect(schema.subscription_type))
            return schema.subscription_type, self._roots[-1]
        return None

    def _collect(self, kind: GraphQLObjectType) -> Any:
        return collect_fields(
            self.schema, self.fragments, self.variable_values, kind, self.operation, self.hide_suggestions
        ).grouped_field_set

    async def _result(self, data: Awaitable[dict[str, Any]]) -> Any:
        try:
            return self.build_response(await data)
        except GraphQLError as exc:
            self.collected_errors.add(exc, None)
            return self.build_response(None)

    def execute_fields(
        self,
        parent_type: GraphQLObjectType,
        source_value: Any,
        path: Path | None,
        grouped_field_set: Any,
        position_context: Any,
    ) -> Any:
        """The fields of one object: their values, or something to wait for them."""
        return self._fields(parent_type, source_value, path, self._plan(parent_type, grouped_field_set))

    def complete_iterable_value(  # noqa: PLR0917  as graphql-core has it
        self, item_type: Any, field_details_list: Any, info: Any, path: Path, items: Any, position_context: Any
    ) -> Any:
        """A list, once all that can be loaded ahead is there."""
        if type(items) is not list:
            return super().complete_iterable_value(item_type, field_details_list, info, path, items, position_context)
        kind, origin = _leads(item_type)
        plan = []
        if kind is not None:
            plan = self._plan(kind, self.collect_subfields(kind, field_details_list)[0])
        return self._list(items, _Listed(item_type, field_details_list, path, lambda: info, kind, origin, plan))

    def account(self, parent: GraphQLObjectType, path: Path, step: _Step) -> Any:
        """graphql-core's account of the circumstances of a field."""
        return self.build_resolve_info(step.field, [one.node for one in step.details], parent, path)

    def gather_async_work(self, values: Sequence[Awaitable[Any]]) -> Awaitable[list[Any]]:
        """The results of all; the first exception, once the others have been cancelled and have ended."""
        return _gather(values)

    def _list(self, items: list[Any], listed: _Listed) -> Any:
        if listed.kind is not None:
            waiting: set[asyncio.Future[Any]] = set()
            self._load(listed.plan, items, waiting)
            if waiting:
                return self._after(waiting, items, listed)
        return self._items(items, listed)

    async def _after(self, waiting: set[asyncio.Future[Any]], items: list[Any], listed: _Listed) -> Any:
        await asyncio.wait(waiting)  # what went wrong is for whoever asks for it
        done = self._items(items, listed)
        return await done if self.is_awaitable(done) else done

    def _items(self, items: list[Any], listed: _Listed) -> Any:
        results: list[Any] = []
        waiting: list[int] = []
        try:
            for index, item in enumerate(items):
                done = self._item(item, Path(listed.path, index, None), listed)
                results.append(done)
                if self.is_awaitable(done):
                    waiting.append(index)
        except Exception:
            begun = [*(results[index] for index in waiting), *filter(self.is_awaitable, items[len(results) + 1 :])]
            if begun:
                self.settle_in_background(begun)
            raise
        return self._all(results, waiting) if waiting else results

    def _item(self, item: Any, path: Path, listed: _Listed) -> Any:
        kind, item_type, details = listed.kind, listed.item_type, listed.details
        if kind is not None and item is not None and (listed.origin is None or type(item) is listed.origin):
            try:
                done = self._fields(kind, item, path, listed.plan)
            except Exception as raw:
                self.handle_field_error(raw, item_type, details, path)
                return None
            return done if type(done) is dict else self._until(done, item_type, details, path)
        if self.is_awaitable(item):
            return self.complete_awaitable_list_item_value(item, item_type, details, listed.info(), path, None)
        completed: list[Any] = []
        self.complete_list_item_value(item, completed, item_type, details, listed.info(), path, None)
        return completed[0]

    def _plan(self, parent: GraphQLObjectType, fields: Any) -> list[_Step]:
        known = self._plans.get(id(fields))
        if known is not None:
            return known[1]
        plan: list[_Step] = []
        self._plans[id(fields)] = (fields, plan)
        for name, details in fields.items():
            node = details[0].node
            definition = self.schema.get_field(parent, node.name.value)
            if definition is not None:
                plan.append(_Step(name, details, definition, _way(definition)))
        return plan

    def _inner(self, step: _Step, kind: GraphQLObjectType) -> list[_Step]:
        if step.inner is None:
            step.inner = self._plan(kind, self.collect_subfields(kind, step.details)[0])
        return step.inner

    def _load(self, plan: list[_Step], objects: Sequence[Any], waiting: set[asyncio.Future[Any]]) -> None:
        """Ask the loaders for what these objects lead to. Whatever is odd about one of them is found out later."""
        for step in plan:
            way = step.way
            if way.ahead is not None:
                keys: dict[Any, None] = {}
                name = ""
                for one in objects:
                    try:
                        if (wanted := self._ahead(way.ahead, one, step)) is not None:
                            name, key = wanted
                            keys[key] = None
                            if way.asks:
                                self._wanted[id(step), id(one)] = (one, wanted)
                    except Exception:  # noqa: S110  said again by whoever asks for it
                        pass
                if keys:
                    waiting |= getattr(self.context_value.loaders, name).ahead(keys)
            elif way.attribute is not None and way.kind is not None and way.items is None:
                inside: list[Any] = []
                for one in objects:
                    with suppress(Exception):
                        inside.append(way.attribute(one))
                self._load(self._inner(step, way.kind), inside, waiting)

    def _ahead(self, ahead: Callable[..., Any], one: Any, step: _Step) -> tuple[str, Any] | None:
        found: tuple[str, Any] | None = (
            ahead(one, self.context_value, **self._arguments(step)) if step.way.asks else ahead(one)
        )
        return found

    def _arguments(self, step: _Step) -> Mapping[str, Any]:
        """What a resolver is given beside its object. They depend on variables, but not on the object."""
        given = step.given if step.given is not None else self._given.get(id(step))
        if given is None:
            (node, _, fragment_variables), schema = step.details[0], self.schema._strawberry_schema  # type: ignore[attr-defined]  # noqa: SLF001
            assert step.way.field is not None
            read = get_argument_values(
                step.field, node, self.variable_values, fragment_variables, self.hide_suggestions
            )
            given = convert_arguments(
                read,
                step.way.field.arguments,
                scalar_registry=schema.schema_converter.scalar_registry,
                config=schema.config,
            )
            self._given[id(step)] = given
            if all(map(_never_changes, given.values())) and not any(
                isinstance(one.value, VariableNode) for one in node.arguments or ()
            ):
                step.given = given
        return given

    def _fields(self, parent: GraphQLObjectType, source: Any, path: Path | None, plan: list[_Step]) -> Any:
        results: dict[str, Any] = {}
        waiting: list[str] = []
        try:
            for step in plan:
                way = step.way
                if way.leaf is not None:
                    try:
                        results[step.name] = way.leaf(source)
                        continue
                    except Exception:  # noqa: S110  the long way says it again, with its place
                        pass
                result = self._field(parent, source, Path(path, step.name, parent.name), step)
                if result is not Undefined:
                    results[step.name] = result
                    if self.is_awaitable(result):
                        waiting.append(step.name)
        except Exception:
            if waiting:  # nothing that was begun may be left without anybody who looks at how it ends
                self.settle_in_background([results[name] for name in waiting])
            raise
        return self._all(results, waiting) if waiting else results

    async def _all(self, results: Any, waiting: Sequence[Any]) -> Any:
        """Fields or items, with what was waited for in its places."""
        if len(waiting) == 1:
            results[waiting[0]] = await results[waiting[0]]
            return results
        for place, done in zip(waiting, await _gather([results[place] for place in waiting]), strict=True):
            results[place] = done
        return results

    def _field(self, parent: GraphQLObjectType, source: Any, path: Path, step: _Step) -> Any:
        way = step.way
        if way.attribute is not None:
            value = way.attribute(source)
            if _fits(value, way):
                return self._done(value, parent, path, step)
        elif way.resolver is not None:
            return self._resolve(parent, source, path, step, way.resolver)
        return self.execute_field(parent, source, step.details, path, None)

    def _resolve(
        self, parent: GraphQLObjectType, source: Any, path: Path, step: _Step, resolver: Callable[..., Any]
    ) -> Any:
        way = step.way
        try:
            given = self._arguments(step) if way.asks else _NOTHING
            if way.shown is not None and (ready := self._ready(step, source)) is not None:
                value = way.shown(self.context_value, ready[0], ready[1].result())
            elif way.told:
                value = resolver(source, info=_Told(self, parent, path, step), **given)
            else:
                value = resolver(source, **given)
            if type(value) is CoroutineType and way.ahead is not None:
                value = _begin(value)
        except Exception as raw:
            self.handle_field_error(raw, step.field.type, step.details, path)
            return None
        if self.is_awaitable(value):
            return self._later(value, parent, path, step)
        return self._done(value, parent, path, step)

    def _ready(self, step: _Step, source: Any) -> tuple[Any, asyncio.Future[Any]] | None:
        """The key that was asked for ahead, and what was found."""
        way = step.way
        if way.asks:  # it was worked out at some cost
            _, wanted = self._wanted.get((id(step), id(source)), (None, None))
        else:
            wanted = way.ahead(source) if way.ahead is not None else None
        if wanted is None:
            return None
        found = getattr(self.context_value.loaders, wanted[0]).ready(wanted[1])
        return None if found is None else (wanted[1], found)

    async def _later(self, value: Awaitable[Any], parent: GraphQLObjectType, path: Path, step: _Step) -> Any:
        try:
            done = self._completed(await value, parent, path, step)
            return await done if self.is_awaitable(done) else done
        except Exception as raw:
            self.handle_field_error(raw, step.field.type, step.details, path)
            return None

    def _done(self, value: Any, parent: GraphQLObjectType, path: Path, step: _Step) -> Any:
        """What is answered for what a field led to."""
        try:
            done = self._completed(value, parent, path, step)
        except Exception as raw:
            self.handle_field_error(raw, step.field.type, step.details, path)
            return None
        return self._until(done, step.field.type, step.details, path) if self.is_awaitable(done) else done

    def _completed(self, value: Any, parent: GraphQLObjectType, path: Path, step: _Step) -> Any:
        way = step.way
        if not _fits(value, way):
            return self.complete_value(
                step.field.type, step.details, self.account(parent, path, step), path, value, None
            )
        if value is None:
            return None
        if way.items is None:
            assert way.kind is not None
            return self._fields(way.kind, value, path, self._inner(step, way.kind))
        plan = [] if way.kind is None else self._inner(step, way.kind)
        info = partial(self.account, parent, path, step)
        return self._list(value, _Listed(way.items, step.details, path, info, way.kind, way.origin, plan))

    async def _until(self, done: Awaitable[Any], kind: Any, details: Any, path: Path) -> Any:
        try:
            return await done
        except Exception as raw:
            self.handle_field_error(raw, kind, details, path)
            return None


def _fits(value: Any, way: Way) -> bool:
    """Whether it needs no closer look: an object of the right type, a list, or none where there may be none."""
    if way.items is not None:
        return type(value) is list or (value is None and way.nullable)
    if way.kind is None:
        return False
    if value is None:
        return way.nullable
    return way.origin is None or type(value) is way.origin


_NOTHING: Final[Mapping[str, Any]] = {}


def _never_changes(value: Any) -> bool:
    return value is None or value is strawberry.UNSET or isinstance(value, str | int | float | Enum)


async def _gather(awaitables: Sequence[Awaitable[Any]]) -> list[Any]:
    """The results of all; the first exception, once the others have been cancelled and have ended.

    Unlike asyncio's, it hands on a cancellation only when it runs itself, which is after all of them have begun. A task
    that is cancelled before its first step drops the coroutines that it was given, and Python warns of each.
    """
    tasks = [asyncio.ensure_future(one) for one in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in tasks:
            if task.done():
                task.result()
    except BaseException:
        for task in tasks:
            task.cancel()
            task.add_done_callback(_heard)
        await asyncio.wait(tasks)
        raise
    return [task.result() for task in tasks]


def _heard(task: asyncio.Future[Any]) -> None:
    """One exception is raised; the others are no news for the log."""
    if not task.cancelled():
        task.exception()


class _Rest:
    """The rest of a coroutine that was begun and had to wait."""

    __slots__ = ("_coroutine", "_pending")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], pending: Any) -> None:
        self._coroutine, self._pending = coroutine, pending
        _mark(pending, waited_for=False)

    def __await__(self) -> Generator[Any, Any, Any]:
        pending = self._pending
        while True:
            _mark(pending, waited_for=True)
            try:
                try:
                    sent = yield pending
                except BaseException as exc:
                    pending = self._coroutine.throw(exc)
                else:
                    pending = self._coroutine.send(sent)
            except StopIteration as done:
                return done.value


def _mark(pending: Any, *, waited_for: bool) -> None:
    """A future is given to its task with this mark, and the task takes it away: what is kept back must not have it."""
    if asyncio.isfuture(pending):
        pending._asyncio_future_blocking = waited_for  # noqa: SLF001


def _begin(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run it until it has to wait. What it returned, or the rest of it.

    Only for what waits for loaders: a coroutine that sets itself a time limit must stay within one task.
    """
    try:
        return _Rest(coroutine, coroutine.send(None))
    except StopIteration as done:
        return done.value


def _way(definition: GraphQLField) -> Way:
    """Looked at once, and kept with the field."""
    way: Way | None = definition.extensions.get(_WAY)
    if way is None:
        way = definition.extensions[_WAY] = _look(definition)
    return way


def _look(definition: GraphQLField) -> Way:
    field = definition.extensions.get(_DEFINITION)
    if not isinstance(field, StrawberryField) or field.is_subscription or field.extensions:
        return _LONG
    kind: GraphQLOutputType = definition.type
    nullable = not isinstance(kind, GraphQLNonNull)
    if isinstance(kind, GraphQLNonNull):
        kind = kind.of_type
    items = kind.of_type if isinstance(kind, GraphQLList) else None
    leads, origin = _leads(kind if items is None else items)
    resolver = field.base_resolver
    if resolver is not None:
        if resolver.root_parameter or resolver.parent_parameter or not resolver.self_parameter:
            return _LONG
        return Way(
            resolver=cast("Callable[..., Any]", resolver.wrapped_func),
            told=resolver.info_parameter is not None,
            asks=bool(definition.args),
            ahead=field.metadata.get(AHEAD),
            shown=field.metadata.get(SHOWN),
            field=field,
            kind=leads,
            origin=origin,
            nullable=nullable,
            items=items,
        )
    if definition.args:
        return _LONG
    read = attrgetter(field.python_name)
    if leads is not None:
        return Way(attribute=read, kind=leads, origin=origin, nullable=nullable, items=items)
    write = _writer(kind)
    return _LONG if write is None else Way(leaf=_leaf(read, write, nullable=nullable))


def _leads(kind: Any) -> tuple[GraphQLObjectType | None, type | None]:
    """The type of the objects that a type leads to, and their class where the type insists on one."""
    if isinstance(kind, GraphQLNonNull):
        kind = kind.of_type
    if not isinstance(kind, GraphQLObjectType):
        return None, None
    return kind, kind.extensions[_DEFINITION].origin if kind.is_type_of is not None else None


def _leaf(read: Callable[[Any], Any], write: Write, *, nullable: bool) -> Write:
    def leaf(source: Any) -> Any:
        value = read(source)
        if value is not None:
            return write(value)
        if nullable:
            return None
        raise _LongWay

    return leaf


def _writer(kind: GraphQLOutputType) -> Write | None:
    """How values of a type are answered; raises for all that is not as usual. None for what is no leaf."""
    if kind in _EXACT:
        return _exact(*_EXACT[kind])
    if isinstance(kind, GraphQLList):
        item = kind.of_type
        write = _writer(item.of_type) if isinstance(item, GraphQLNonNull) else None
        return None if write is None else _list(write)
    if isinstance(kind, GraphQLEnumType | GraphQLScalarType):
        return _coerced(kind)
    return None


def _exact(known: type, right: Callable[[Any], bool] | None) -> Write:
    def write(value: Any) -> Any:
        if type(value) is known and (right is None or right(value)):
            return value
        raise _LongWay

    return write


_EXACT: Final[dict[Any, tuple[type, Callable[[Any], bool] | None]]] = {
    GraphQLString: (str, None),
    GraphQLID: (str, None),
    GraphQLBoolean: (bool, None),
    GraphQLInt: (int, lambda value: -(2**31) <= value < 2**31),
    GraphQLFloat: (float, isfinite),
}


def _list(write: Write) -> Write:
    def write_all(values: Any) -> Any:
        if type(values) is list:
            return [write(value) for value in values]
        raise _LongWay

    return write_all


def _coerced(kind: GraphQLEnumType | GraphQLScalarType) -> Write:
    coerce = kind.coerce_output_value
    names: dict[Any, Any] = {}

    def write(value: Any) -> Any:
        written = coerce(value)
        if written is None or written is Undefined:
            raise _LongWay
        return written

    def name(value: Any) -> Any:
        found = names.get(value)
        if found is None:
            found = names[value] = write(value)
        return found

    return name if isinstance(kind, GraphQLEnumType) else write
