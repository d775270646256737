"""Execute once, send many: subscriptions that ask the same share one execution of each batch and one encoding of it.

Alike are operations of one tenant, with the same rights, whose documents and variables differ in nothing but where they
resume. Each is parsed, validated, weighed, authorised and replayed by itself first; it joins the others once it is at
the end of the log. From then on a batch is a piece of the log with two ends, and a member takes it only if the piece
holds exactly what follows the member's own position. So nobody gets a gap or a repeat, whoever joins when.

The group runs as nobody in particular: its actor has the rights of its members and no key. A document that asks who it
is fails there, and is from then on executed for each by itself.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Collection, Hashable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, fields
from functools import lru_cache, partial
from typing import Any, Final, Protocol, TypeAlias
from uuid import UUID

import orjson
import strawberry
import structlog
from graphql import (
    ArgumentNode,
    DocumentNode,
    ExecutionResult,
    Executor,
    FieldNode,
    OperationDefinitionNode,
    OperationType,
    VariableDefinitionNode,
    VariableNode,
    Visitor,
    execute_subscription_event,
    parse,
    print_ast,
    visit,
)

from app.domain.feed import insist
from app.domain.keys import Actor
from app.errors import ServiceUnavailable
from schema.documents import LONGEST_KEPT
from schema.errors import refusal

log = structlog.get_logger(__name__)

#: Arguments of a subscription that say where it begins: members of one group may differ in them.
BEGINNINGS: Final = frozenset({"after", "from"})
#: What of an actor is one caller's own. All the rest of it must be the same in a group.
OWN: Final = frozenset({"key_id", "expires_at"})
#: Stands for the previous cursor in a shared text until it is known whose text it is. Nobody outside ever sees it.
MARK: Final = f"previous-cursor-{secrets.token_hex(16)}"
_MARK: Final = orjson.dumps(MARK)
#: Documents whose shape is remembered, and groups that are known not to work.
SHAPES_KEPT: Final = 256
MISFITS_KEPT: Final = 1024
#: Members that are served before others of the process have their turn.
TURN: Final = 250

Key: TypeAlias = tuple[Hashable, ...]


class Step(Protocol):
    """One batch of a source."""

    @property
    def position(self) -> int:
        """Everything up to here has been seen by whoever takes it."""

    @property
    def first(self) -> int | None:
        """The position of the first thing in it; None when it is empty."""

    @property
    def goes_on(self) -> bool:
        """Whether it is of the same moment as the one before it, so that what was loaded for that one is still new."""


class Source(Protocol):
    """What a subscription follows, once it has seen what there was."""

    def follow(self, after: int) -> AsyncGenerator[Any]:
        """Steps after a position, for ever; nothing is said at once."""

    def show(self, context: Any, step: Any, previous: str) -> Any:
        """A step as the subscription's field gives it."""

    def cursor(self, position: int) -> str:
        """The cursor of a position."""


@dataclass(frozen=True, slots=True)
class Live:
    """Said by a subscription with a batch after which it waits for news: others may go on from here as well."""

    position: int
    source: Source


@dataclass(frozen=True, slots=True)
class Asked:
    """An operation as it was asked for."""

    query: str
    variables: dict[str, Any] | None = None
    operation_name: str | None = None
    extensions: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Shape:
    """A subscription's document without where it begins."""

    text: str
    variables: frozenset[str]


class DependsOnViewer(Exception):
    """Something asked who the caller is, where there are many."""


class Anyone(Actor):
    """An actor with rights and without a key."""

    @property
    def key_id(self) -> UUID:
        """Nobody's."""
        raise DependsOnViewer

    @classmethod
    def like(cls, actor: Actor) -> Anyone:
        """With the same rights."""
        anyone = object.__new__(cls)
        for part in fields(actor):
            if part.name != "key_id":
                object.__setattr__(anyone, part.name, None if part.name in OWN else getattr(actor, part.name))
        return anyone


@dataclass(slots=True)
class Piece:
    """An executed batch: what follows any position from `start` up to before `first`, and leads to `end`."""

    start: int
    first: int | None
    end: int
    cursor: str
    _parts: Sequence[bytes]
    _source: Source
    _texts: dict[int, bytes] = field(default_factory=dict)

    def fits(self, position: int) -> bool:
        """Whether it is exactly what comes next for who is at `position`."""
        return self.start <= position < self.first if self.first is not None else self.start <= position <= self.end

    def after(self, position: int) -> bytes:
        """The result as JSON, for who is at `position`."""
        text = self._texts.get(position)
        if text is None:
            text = self._texts[position] = orjson.dumps(self._source.cursor(position)).join(self._parts)
        return text


class Member:
    """One subscription in a group. `out` is done when it has to go on by itself, from `position`."""

    def __init__(self, position: int) -> None:
        self.position = position
        self.out: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def take(self, text: bytes, piece: Piece) -> bool:
        """Pass a result on without waiting; False when there is no room for it."""
        raise NotImplementedError

    def leave(self) -> None:
        """Have it go on by itself."""
        if not self.out.done():
            self.out.set_result(None)


@dataclass(slots=True)
class SharingCounts:
    """What sharing did in this process since it started."""

    executed: int = 0  # batches
    sent: int = 0  # of these, to members
    overflowed: int = 0  # members whose buffer was full
    misplaced: int = 0  # members that a piece did not fit
    failed: int = 0  # groups


class Groups:
    """All groups of one process."""

    def __init__(
        self, schema: strawberry.Schema, make_context: Callable[[Actor], Any], encode: Callable[[Any, Any], bytes]
    ) -> None:
        self._schema = schema
        self._make_context = make_context
        self._encode = encode
        self._groups: dict[Key, Group] = {}
        self._misfits: OrderedDict[Key, None] = OrderedDict()
        self.counts = SharingCounts()

    @property
    def open(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    @property
    def members(self) -> int:
        """In all groups."""
        return sum(len(group.members) for group in self._groups.values())

    def join(self, asked: Asked, actor: Actor, live: Live, make: Callable[[int], Member]) -> Member | None:
        """A member of the group of its like, made if need be; None for who has to go on by itself. Never waits."""
        key = key_of(asked, actor)
        if key is None or key in self._misfits:
            return None
        group = self._groups.get(key)
        if group is None:
            context = self._make_context(Anyone.like(actor))
            executor = self._executor(asked, context)
            if executor is None:
                return None
            group = self._groups[key] = Group(live, executor, context, self._encode, self.counts)
            group.task = asyncio.create_task(self._run(key, group))
        if live.position < group.start:
            return None  # the group has gone on; the tail has what is missing, so the next try is near
        member = make(live.position)
        group.members[member] = None
        member.out.add_done_callback(lambda _: self._drop(key, group, member))
        return member

    def _drop(self, key: Key, group: Group, member: Member) -> None:
        group.members.pop(member, None)
        if not group.members and self._groups.get(key) is group:
            del self._groups[key]
            group.end()

    async def _run(self, key: Key, group: Group) -> None:
        try:
            await group.run()
        except Exception as exc:  # its members will see for themselves
            self.counts.failed += 1
            if isinstance(exc, _NotForAll):
                self._misfits[key] = None
                while len(self._misfits) > MISFITS_KEPT:
                    self._misfits.popitem(last=False)
            elif not isinstance(exc, _Failed):
                log.info("sharing.group_ended", error=type(exc).__name__)
        finally:
            if self._groups.get(key) is group:
                del self._groups[key]
            for member in list(group.members):
                member.leave()

    def _executor(self, asked: Asked, context: Any) -> Executor[Any] | None:
        executor = (self._schema.execution_context_class or Executor).build(
            self._schema._schema,  # noqa: SLF001
            parse(asked.query),
            context_value=context,
            raw_variable_values=asked.variables,
            operation_name=asked.operation_name,
        )
        return executor if isinstance(executor, Executor) else None

    async def stop(self) -> None:
        """End all of them."""
        tasks = [group.task for group in self._groups.values() if group.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Failed(Exception):
    """A batch could not be executed."""


class _NotForAll(Exception):
    """A batch could be executed for one caller only."""


class Group:
    """Operations alike. `start` is where the next piece begins."""

    def __init__(
        self,
        live: Live,
        executor: Executor[Any],
        context: Any,
        encode: Callable[[ExecutionResult, Any], bytes],
        counts: SharingCounts,
    ) -> None:
        self.start = live.position
        self.members: dict[Member, None] = {}
        self.task: asyncio.Task[None] | None = None
        self._executing = self._over = self._loaded = False
        self._source = live.source
        self._executor = executor
        self._context = context
        self._encode = encode
        self._counts = counts

    def end(self) -> None:
        """Nobody is left. An execution under way comes to its end: cut in the middle it would leave loose ends."""
        self._over = True
        if self.task is not None and not self._executing:
            self.task.cancel()

    async def run(self) -> None:
        """Execute and pass on, until it is ended or a batch cannot be executed."""
        async with aclosing(self._source.follow(self.start)) as steps:
            async for step in steps:
                self._executing = True
                piece = await insist(partial(self._execute, step))
                self._executing = False
                if self._over:
                    return
                self._counts.executed += 1
                # Who joins from here on has this piece behind it.
                self.start = piece.end
                await self._pass_on(piece)

    async def _execute(self, step: Step) -> Piece:
        if not (step.goes_on and self._loaded):
            self._context.refresh()
        self._loaded = False  # what could not be loaded is asked for again
        shown = self._source.show(self._context, step, MARK)
        executing = execute_subscription_event(self._executor.build_per_event_executor(shown))
        result = executing if isinstance(executing, ExecutionResult) else await executing
        for error in result.errors or ():
            if isinstance(refusal(error), ServiceUnavailable):
                raise ServiceUnavailable("The database cannot be reached just now.")
            if isinstance(error.original_error, DependsOnViewer):
                raise _NotForAll
        if result.data is None:
            raise _Failed  # each member is shown its own errors, under its own request id
        self._loaded = True
        parts = self._encode(result, self._context).split(_MARK)
        return Piece(self.start, step.first, step.position, self._source.cursor(step.position), parts, self._source)

    async def _pass_on(self, piece: Piece) -> None:
        counts = self._counts
        for number, member in enumerate(list(self.members), start=1):
            if not member.out.done():
                position = member.position
                if piece.fits(position):
                    if member.take(piece.after(position), piece):
                        counts.sent += 1
                        member.position = piece.end
                    else:
                        counts.overflowed += 1
                        member.leave()
                elif position < piece.end:
                    counts.misplaced += 1
                    member.leave()
            if not number % TURN:
                await asyncio.sleep(0)


def key_of(asked: Asked, actor: Actor) -> Key | None:
    """What operations alike have in common; None for what is not shared."""
    shape = read_shape(asked.query, asked.operation_name)
    if shape is None:
        return None
    given = asked.variables or {}
    variables = {name: value for name, value in given.items() if name in shape.variables}
    try:
        text = orjson.dumps(variables, option=orjson.OPT_SORT_KEYS)
    except TypeError:
        return None
    rights = tuple(getattr(actor, part.name) for part in fields(actor) if part.name not in OWN)
    return (rights, shape.text, asked.operation_name, text)


def read_shape(query: str, operation_name: str | None) -> Shape | None:
    """The shape of a document that was executed before; None when it is not the plain subscription that is shared."""
    return (_remembered_shape if len(query) <= LONGEST_KEPT else _read_shape)(query, operation_name)


def _read_shape(query: str, operation_name: str | None) -> Shape | None:
    document = parse(query)
    operations = [
        part
        for part in document.definitions
        if isinstance(part, OperationDefinitionNode)
        and (operation_name is None or (part.name is not None and part.name.value == operation_name))
    ]
    if len(operations) != 1 or operations[0].operation is not OperationType.SUBSCRIPTION:
        return None
    operation, (root, *more) = operations[0], operations[0].selection_set.selections
    if more or not isinstance(root, FieldNode):
        return None
    begins = [argument for argument in root.arguments or () if argument.name.value in BEGINNINGS]
    named = [argument.value.name.value for argument in begins if isinstance(argument.value, VariableNode)]
    uses = _count_variables(document)
    # One that is used elsewhere as well says more than where to begin.
    dropped = {name for name in named if uses.get(name) == 2}  # its definition is one of the two
    if len(dropped) != len(named):
        return None
    plain = print_ast(_without(document, begins, dropped))
    declared = {definition.variable.name.value for definition in operation.variable_definitions or ()}
    return Shape(plain, frozenset(declared - dropped))


_remembered_shape = lru_cache(SHAPES_KEPT)(_read_shape)


def _count_variables(document: DocumentNode) -> dict[str, int]:
    uses: dict[str, int] = {}

    class Count(Visitor):
        def enter_variable(self, node: VariableNode, *_: Any) -> None:
            uses[node.name.value] = uses.get(node.name.value, 0) + 1

    visit(document, Count())
    return uses


def _without(document: DocumentNode, begins: Collection[ArgumentNode], dropped: Collection[str]) -> DocumentNode:
    """The document without these arguments, and without the definitions of these variables."""

    class Drop(Visitor):
        def enter_argument(self, node: ArgumentNode, *_: Any) -> Any:
            return self.REMOVE if any(node is argument for argument in begins) else None

        def enter_variable_definition(self, node: VariableDefinitionNode, *_: Any) -> Any:
            return self.REMOVE if node.variable.name.value in dropped else None

    plain: DocumentNode = visit(document, Drop())
    return plain
