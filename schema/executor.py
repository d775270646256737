"""graphql-core's executor with a short way for what most of an answer consists of.

A page of a hundred punches has some two thousand values, and nearly all of them are attributes of objects that are
there already. For each the executor would make a path, an account of the circumstances for the resolver, and several
checks of whether something has to be waited for. Here a field is looked at once, and its values are read:

- a leaf is read from its attribute and written by its type;
- an object in an attribute is gone into at once;
- a resolver without arguments is called without what Strawberry puts around it;
- what a list's objects lead to, by fields marked `ahead`, is loaded for all of them before the first is looked at, so
  that their resolvers find it there and nothing has to be waited for object by object.

Whatever is out of the ordinary (a null where none may be, an exception, a value that does not fit its type) goes the
long way, from the beginning: errors are the executor's own. Answers are the same either way, which a test checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import isfinite
from operator import attrgetter
from types import CoroutineType
from typing import Any, Final, cast

import strawberry
from graphql import (
    GraphQLBoolean,
    GraphQLEnumType,
    GraphQLField,
    GraphQLFloat,
    GraphQLID,
    GraphQLInt,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    GraphQLScalarType,
    GraphQLString,
    Undefined,
)
from graphql.pyutils import Path
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext
from strawberry.types.field import StrawberryField

from schema.fields import AHEAD, Ahead

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
    #: A resolver without arguments, and whether it wants Strawberry's Info.
    resolver: Callable[..., Any] | None = None
    told: bool = False
    ahead: Ahead | None = None
    field: StrawberryField | None = None
    #: The type of the one object that it leads to, the class of those objects where the type insists on one, and
    #: whether there may be none.
    kind: GraphQLObjectType | None = None
    origin: type | None = None
    nullable: bool = False


_LONG: Final = Way()


@dataclass(slots=True)
class _Step:
    """One answered name of a selection."""

    name: str
    details: Any
    field: GraphQLField
    way: Way
    #: What is selected of its object.
    inner: list[_Step] | None = None


@dataclass(slots=True)
class _Listed:
    """What the items of one list have in common."""

    item_type: Any
    details: Any
    info: Any
    path: Path
    #: What is selected of each, if they are objects.
    plan: list[_Step] | None = None

    @property
    def kind(self) -> Any:
        """Their type, whether or not they may be null."""
        return self.item_type.of_type if isinstance(self.item_type, GraphQLNonNull) else self.item_type


class Executor(StrawberryGraphQLCoreExecutionContext):
    """Made for each operation."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: By the identity of the collected fields, which are kept beside them: an identity is given again.
        self._plans: dict[int, tuple[Any, list[_Step]]] = {}

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
        listed = _Listed(item_type, field_details_list, info, path)
        if isinstance(listed.kind, GraphQLObjectType):
            waiting: set[asyncio.Future[Any]] = set()
            listed.plan = self._plan(listed.kind, self.collect_subfields(listed.kind, field_details_list)[0])
            self._load(listed.plan, items, waiting)
            if waiting:

                async def after() -> Any:
                    await asyncio.wait(waiting)  # what went wrong is for whoever asks for it
                    done = self._items(items, listed)
                    return await done if self.is_awaitable(done) else done

                return after()
        return self._items(items, listed)

    def gather_async_work(self, values: Sequence[Awaitable[Any]]) -> Awaitable[list[Any]]:
        """The results of all; the first exception, once the others have been cancelled and have ended."""
        return _gather(values)

    def _items(self, items: list[Any], listed: _Listed) -> Any:
        results: list[Any] = []
        waiting: list[int] = []
        try:
            for index, item in enumerate(items):
                self._item(item, Path(listed.path, index, None), listed, results)
                if self.is_awaitable(results[-1]):
                    waiting.append(index)
        except Exception:
            begun = [*(results[index] for index in waiting), *filter(self.is_awaitable, items[len(results) :])]
            if begun:
                self.settle_in_background(begun)
            raise
        return self._all(results, waiting) if waiting else results

    def _item(self, item: Any, path: Path, listed: _Listed, results: list[Any]) -> None:
        kind, details = listed.item_type, listed.details
        if self.is_awaitable(item):
            results.append(self.complete_awaitable_list_item_value(item, kind, details, listed.info, path, None))
            return
        self.complete_list_item_value(item, results, kind, details, listed.info, path, None)

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
                way = _LONG if node.arguments else _way(definition)
                plan.append(_Step(name, details, definition, way))
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
                loaders = self.context_value.loaders
                for one in objects:
                    with suppress(Exception):
                        if (wanted := way.ahead(one)) is not None:
                            future = getattr(loaders, wanted[0]).begin(wanted[1])
                            if not future.done():
                                waiting.add(future)
            elif way.attribute is not None and way.kind is not None:
                inside: list[Any] = []
                for one in objects:
                    with suppress(Exception):
                        inside.append(way.attribute(one))
                self._load(self._inner(step, way.kind), inside, waiting)

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
                return self._object(value, path, step)
        elif way.resolver is not None:
            return self._resolve(parent, source, path, step, way.resolver)
        return self.execute_field(parent, source, step.details, path, None)

    def _resolve(
        self, parent: GraphQLObjectType, source: Any, path: Path, step: _Step, resolver: Callable[..., Any]
    ) -> Any:
        way, details, kind = step.way, step.details, step.field.type
        info = self.build_resolve_info(step.field, [one.node for one in details], parent, path)
        try:
            if way.told:
                assert way.field is not None
                value = resolver(source, info=strawberry.Info(_raw_info=info, _field=way.field))
            else:
                value = resolver(source)
            if type(value) is CoroutineType and way.ahead is not None:
                value = _begin(value)
            if self.is_awaitable(value):
                return self.complete_awaitable_value(kind, details, info, path, value, None)
            if _fits(value, way):
                return self._object(value, path, step)
            done = self.complete_value(kind, details, info, path, value, None)
        except Exception as raw:
            self.handle_field_error(raw, kind, details, path)
            return None
        return self._until(done, step, path) if self.is_awaitable(done) else done

    def _object(self, value: Any, path: Path, step: _Step) -> Any:
        """What is selected of the object that a field led to."""
        kind = step.way.kind
        assert kind is not None
        try:
            done = None if value is None else self._fields(kind, value, path, self._inner(step, kind))
        except Exception as raw:
            self.handle_field_error(raw, step.field.type, step.details, path)
            return None
        return done if done is None or type(done) is dict else self._until(done, step, path)

    async def _until(self, done: Awaitable[Any], step: _Step, path: Path) -> Any:
        try:
            return await done
        except Exception as raw:
            self.handle_field_error(raw, step.field.type, step.details, path)
            return None


def _fits(value: Any, way: Way) -> bool:
    """Whether it needs no closer look: an object of the right type, or none where there may be none."""
    if way.kind is None:
        return False
    if value is None:
        return way.nullable
    return way.origin is None or type(value) is way.origin


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
    if not isinstance(field, StrawberryField) or field.is_subscription or field.extensions or definition.args:
        return _LONG
    kind: GraphQLOutputType = definition.type
    nullable = not isinstance(kind, GraphQLNonNull)
    if isinstance(kind, GraphQLNonNull):
        kind = kind.of_type
    leads = kind if isinstance(kind, GraphQLObjectType) else None
    origin = leads.extensions[_DEFINITION].origin if leads is not None and leads.is_type_of is not None else None
    resolver = field.base_resolver
    if resolver is not None:
        if resolver.root_parameter or resolver.parent_parameter or not resolver.self_parameter:
            return _LONG
        return Way(
            resolver=cast("Callable[..., Any]", resolver.wrapped_func),
            told=resolver.info_parameter is not None,
            ahead=field.metadata.get(AHEAD),
            field=field,
            kind=leads,
            origin=origin,
            nullable=nullable,
        )
    read = attrgetter(field.python_name)
    if leads is not None:
        return Way(attribute=read, kind=leads, origin=origin, nullable=nullable)
    write = _writer(kind)
    return _LONG if write is None else Way(leaf=_leaf(read, write, nullable=nullable))


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
