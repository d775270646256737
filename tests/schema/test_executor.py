"""The short way through the executor gives the answers of the long one: values, nulls, errors and their places."""

from __future__ import annotations

import asyncio
import gc
import inspect
import random
import warnings
import weakref
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from functools import partial
from typing import Any
from uuid import UUID

import pytest
import strawberry
from graphql import (
    ExecutionResult,
    GraphQLObjectType,
    GraphQLSchema,
    OperationDefinitionNode,
    execute,
    execute_subscription_event,
    get_named_type,
    is_composite_type,
    is_required_argument,
    parse,
    validate,
)
from graphql.execution.collect_fields import collect_fields
from strawberry.execution import optimized_is_awaitable
from strawberry.schema.schema import StrawberryGraphQLCoreExecutionContext as Stock

from app.domain.keys import SCOPES, Actor
from schema import schema
from schema.executor import Executor, Planned
from schema.fields import resolved
from schema.http import MakeContext
from schema.loaders import Loader, Loaders
from tests.schema.conftest import Caller
from tests.schema.world import World

_APART = {"broken"}
_ARGUMENTS = {"first": ["2", "$two", "$none"], "from": ["BEGINNING"], "times": ["2", "$two", "$none"]}
VARIABLES = {"two": 2, "none": None}


def write_document(chance: random.Random, core: GraphQLSchema, ids: list[str]) -> str:
    """A valid query that asks for this and that; VARIABLES go with it."""
    assert core.query_type is not None
    selection = _selection(chance, core, core.query_type, ids, 6)
    told = ", ".join(f"${name}: Int" for name in VARIABLES if f"${name}" in selection)
    return f"query {f'({told})' if told else ''} {selection}"


def _selection(chance: random.Random, core: GraphQLSchema, kind: GraphQLObjectType, ids: list[str], deep: int) -> str:
    chosen: list[str] = []
    for name, definition in kind.fields.items():
        if name in _APART:
            continue
        inner = get_named_type(definition.type)
        arguments = []
        for argument, asked in definition.args.items():
            if argument in _ARGUMENTS:
                if argument != "times" or chance.random() < 0.7:
                    arguments.append(f"{argument}: {chance.choice(_ARGUMENTS[argument])}")
            elif is_required_argument(asked) or (argument == "id" and chance.random() < 0.8):
                one = f'"{chance.choice(ids)}"'
                arguments.append(f"{argument}: [{one}]" if argument == "ids" else f"{argument}: {one}")
        asked_for = f"({', '.join(arguments)})" if arguments else ""
        if not is_composite_type(inner):
            if chance.random() < 0.6:
                chosen.append(f"{name}{asked_for}")
        elif isinstance(inner, GraphQLObjectType) and deep and chance.random() < 0.5:
            alias = "again: " if chance.random() < 0.05 and "again" not in str(chosen) else ""
            chosen.append(f"{alias}{name}{asked_for} {_selection(chance, core, inner, ids, deep - 1)}")
    return "{ " + " ".join([*chosen, "__typename"]) + " }"


async def both(core: GraphQLSchema, document: str, make: Callable[[], Any]) -> tuple[Any, Any]:
    """Data, and where errors left nulls, of our executor and of Strawberry's, each with its own context.

    Ours answers three times: alone, and twice with what is kept with the document.
    """
    parsed = parse(document)
    (operation,) = (one for one in parsed.definitions if isinstance(one, OperationDefinitionNode))
    planned = Planned.of(parsed, operation)

    def run(kind: Any) -> Any:
        return execute(
            core,
            parsed,
            context_value=make(),
            variable_values=VARIABLES,
            is_awaitable=optimized_is_awaitable,  # type: ignore[arg-type]
            executor_class=kind,
            operation_extensions=None,
        )

    def plan() -> Any:
        return Executor.run(core, planned, make(), VARIABLES, None)

    answers = []
    for ask in (partial(run, Stock), partial(run, Executor), plan, plan):
        result = ask()
        if inspect.isawaitable(result):
            result = await result
        assert isinstance(result, ExecutionResult)
        answers.append((result.data, {_hole(result.data, error.path or []) for error in result.errors or ()}))
    stock, *ours = answers
    assert ours[0] == ours[1] == ours[2]
    return ours[0], stock


def _hole(data: Any, path: list[str | int]) -> tuple[str | int, ...]:
    """Where an error left its null. Of several siblings that may not be null and break, any may be the one named."""
    for depth, step in enumerate(path):
        if data is None:
            return tuple(path[:depth])
        data = data[step]
    assert data is None
    return tuple(path)


@pytest.mark.parametrize("seed", range(40))
async def test_any_query_is_answered_alike(caller: Caller, world: World, make_context: MakeContext, seed: int) -> None:
    chance = random.Random(seed)
    nodes = await caller.ask(
        "{ sites { nodes { id } } devices { nodes { id } } employees { nodes { id } } punches { nodes { id } } "
        "webhookEndpoints { nodes { id } } webhookDeliveries { nodes { id } } deviceCommands { nodes { id } } }"
    )
    ids = [node["id"] for page in nodes.values() for node in page["nodes"]]
    scopes = frozenset(scope for scope in SCOPES if chance.random() < 0.8)
    actor = Actor(world.tenant_id, world.device.id, scopes, "TRIAL")
    document = write_document(chance, schema.core, ids)
    assert not validate(schema.core, parse(document)), document

    ours, stock = await both(schema.core, document, lambda: make_context(actor, "req_1", None))

    assert ours == stock


# ── what never happens with our own types ────────────────────────────────────────────────────────────


class Color(Enum):
    RED = "red"


_Color = strawberry.enum(Color)


@strawberry.interface
class Named:
    name: str


@strawberry.type
class Leaf(Named):
    name: str
    number: int | None
    ratio: float
    color: _Color  # type: ignore[valid-type]
    at: datetime
    tags: list[str]

    @resolved("Loaded.", ahead=lambda one: None if one.number is None else ("words", one.number))
    async def word(self, info: strawberry.Info[Any, None]) -> str | None:
        return None if self.number is None else await info.context.loaders.words.load(self.number)

    @resolved("Loaded as well, and never null.", ahead=lambda one: ("words", one.name))
    async def strict_word(self, info: strawberry.Info[Any, None]) -> str:
        word: str = await info.context.loaders.words.load(self.name)
        return word

    @resolved("With arguments.", ahead=lambda one, _, times=1, **__: ("words", (one.name, times)))
    async def seldom(self, info: strawberry.Info[Any, None], *, times: int | None = 1) -> str:
        word: str = await info.context.loaders.words.load((self.name, times))
        return f"{times} {word}"

    @resolved(
        "With arguments, and shown without being asked.",
        ahead=lambda one, _, times=1, **__: ("words", (one.name, times)),
        shown=lambda _, key, found: f"often {key[1] or 'none'} {found}",
    )
    async def often(self, info: strawberry.Info[Any, None], *, times: int | None = 1) -> str:
        word: str = await info.context.loaders.words.load((self.name, times))
        return f"{info.field_name} {times or 'none'} {word}"

    @resolved(
        "Shown without being asked.",
        ahead=lambda one: ("words", one.ratio),
        shown=lambda _, key, found: f"{key + 1} {found}",
    )
    async def shown(self, info: strawberry.Info[Any, None]) -> str:
        word: str = await info.context.loaders.words.load(self.ratio)
        return f"{self.ratio + 1} {word}"

    @resolved("A list.")
    def numbers(self, *, times: int | None = 2) -> list[int]:
        return [self.number] * (times or 1)  # type: ignore[list-item]

    @resolved("Of its kind.")
    async def named(self) -> list[Named]:
        await asyncio.sleep(0)
        return [self, self]

    @resolved("At once.")
    def loud(self) -> str:
        if self.name == "":
            raise ValueError("nothing to shout")
        return self.name.upper()

    @resolved("Breaks soon.")
    async def broken(self) -> str:
        await asyncio.sleep(0)
        raise ValueError("broken")

    @resolved("In a while.")
    async def slow(self) -> str | None:
        await asyncio.sleep(0)
        return self.name or None


@strawberry.type
class Branch:
    leaf: Leaf | None
    strict: Leaf
    leaves: list[Leaf]

    @resolved("Loaded.", ahead=lambda one: ("leaves", one.strict.name if one.strict else "none"))
    async def linked(self, info: strawberry.Info[Any, None]) -> Leaf | None:
        found: Leaf | None = await info.context.loaders.leaves.load(self.strict.name if self.strict else "none")
        return found


@strawberry.type
class Query:
    @resolved("All.")
    def branches(self, info: strawberry.Info[Any, None]) -> list[Branch | None]:
        branches: list[Branch | None] = info.context.branches
        return branches

    @resolved("One.")
    async def branch(self, info: strawberry.Info[Any, None]) -> Branch | None:
        await asyncio.sleep(0)
        branch: Branch | None = info.context.branches[0]
        return branch


@dataclass
class Some:
    words: Loader[Any, Any]
    leaves: Loader[Any, Any]


@dataclass
class Odd:
    branches: list[Any]
    loaders: Some
    asked: list[list[Any]] = field(default_factory=list)

    @classmethod
    def of(cls, branches: list[Any], leaves: dict[str, Any]) -> Odd:
        asked: list[list[Any]] = []

        async def words(keys: list[Any]) -> list[Any]:
            asked.append(keys)
            for _ in range(9):
                await asyncio.sleep(0)
            # 1, 1.0 and True are one key, whichever was asked for first.
            named = [f"{key:g}" if isinstance(key, int | float) else key for key in keys]
            return [None if name in ("2", "") else KeyError(name) if name == "3" else f"word {name}" for name in named]

        async def load_leaves(keys: list[Any]) -> list[Any]:
            asked.append(keys)
            await asyncio.sleep(0)
            return [leaves.get(key) for key in keys]

        return cls(branches, Some(Loader(words), Loader(load_leaves)), asked)


def make_leaf(chance: random.Random) -> Any:
    """A leaf, now and then with something that its type does not allow."""

    def odd(right: Any, *wrong: Any) -> Any:
        return chance.choice(wrong) if chance.random() < 0.08 else right

    leaf = Leaf(
        name=odd(chance.choice(["a", "b", "c"]), "", None, 7),
        number=odd(chance.choice([1, 2, 4, None]), 3, 2**40, "five", 1.0, True),
        ratio=odd(0.5, 3, float("nan"), None, "x"),
        color=odd(Color.RED, "RED", None, "blue"),
        at=odd(datetime(2026, 3, 1, tzinfo=UTC), None, "yesterday"),
        tags=odd(["x"], ["x", None], [], None, ("x", "y"), "xy", [1]),
    )
    return odd(leaf, None, ValueError("a mistake in the data"), object())


@pytest.mark.parametrize("seed", range(150))
async def test_whatever_is_wrong_with_the_data_is_said_alike(seed: int) -> None:
    chance = random.Random(seed)
    core = strawberry.Schema(Query)._schema

    def make_branch() -> Any:
        leaves: Any = [make_leaf(chance) for _ in range(3)]
        leaf, strict = make_leaf(chance), make_leaf(chance)
        if isinstance(strict, Leaf) or strict is None:
            return Branch(leaf=leaf, strict=strict, leaves=chance.choice([leaves, leaves, None]))  # type: ignore[arg-type,list-item]
        return Branch(leaf=leaf, strict=make_leaf_of(chance), leaves=leaves)

    branches = [None if chance.random() < 0.1 else make_branch() for _ in range(3)]
    leaves = {name: make_leaf(chance) for name in ("a", "b", "c")}
    document = write_document(chance, core, [])

    ours, stock = await both(core, document, lambda: Odd.of(branches, leaves))

    assert ours == stock


def make_leaf_of(chance: random.Random) -> Leaf:
    while not isinstance(leaf := make_leaf(chance), Leaf):
        pass
    return leaf


async def test_a_field_that_breaks_takes_no_row_from_those_that_wait_for_the_same() -> None:
    core = strawberry.Schema(Query)._schema
    leaf = make_leaf_of(random.Random(0))
    leaf.name = "a"
    context = Odd.of([Branch(leaf=leaf, strict=leaf, leaves=[])], {})
    query = "{ branch { leaf { strictWord } } again: branch { leaf { strictWord broken } } }"

    done: Any = execute(core, parse(query), context_value=context, executor_class=Executor)
    result = await done

    assert result.data == {"branch": {"leaf": {"strictWord": "word a"}}, "again": {"leaf": None}}
    assert [error.message for error in result.errors or ()] == ["broken"]


async def test_an_object_of_another_class_is_not_taken_for_one_of_this_type() -> None:
    core = strawberry.Schema(Query)._schema
    branch = Branch(leaf=object(), strict=make_leaf_of(random.Random(0)), leaves=[])  # type: ignore[arg-type]

    ours, stock = await both(core, "{ branch { leaf { __typename } } }", lambda: Odd.of([branch], {}))

    assert ours == stock == ({"branch": {"leaf": None}}, {("branch", "leaf")})


async def test_what_a_list_leads_to_is_asked_for_once_and_before_its_first_object() -> None:
    core = strawberry.Schema(Query)._schema
    chance = random.Random(0)
    leaves = [make_leaf_of(chance) for _ in range(3)]
    for number, leaf in enumerate(leaves, start=4):
        leaf.number = number
    branch = Branch(leaf=None, strict=leaves[0], leaves=leaves)
    context = Odd.of([branch], {})

    done: Any = execute(core, parse("{ branches { leaves { word } } }"), context_value=context, executor_class=Executor)
    result = await done

    assert result.data == {"branches": [{"leaves": [{"word": f"word {number}"} for number in (4, 5, 6)]}]}
    assert context.asked == [[4, 5, 6]]


@pytest.mark.parametrize("ticks", range(24))
async def test_whenever_an_operation_is_given_up_or_breaks_nothing_of_it_is_left_unawaited(ticks: int) -> None:
    leaves = [make_leaf_of(random.Random(0)) for _ in range(3)]
    context = Odd.of([Branch(leaf=None, strict=leaves[0], leaves=leaves)] * 3, {"a": leaves[0]})
    document = parse(
        "{ a: branch { leaves { slow loud } strict { slow again: slow } linked { slow word strictWord } } "
        "b: branch { leaves { slow word again: slow } } branches { leaves { slow again: slow } linked { slow word } } "
        "c: branch { leaves { slow } linked { slow again: slow word } strict { broken again: broken } } }"
    )
    core = strawberry.Schema(Query)._schema

    async def answer() -> None:
        done: Any = execute(core, document, context_value=context, executor_class=Executor)
        await done

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        task = asyncio.create_task(answer())
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(16):
            await asyncio.sleep(0)
        gc.collect()

    assert [str(one.message) for one in warned] == []


async def test_what_depends_on_a_variable_is_worked_out_for_each_operation() -> None:
    core = strawberry.Schema(Query)._schema
    leaf = make_leaf_of(random.Random(0))
    leaf.name, leaf.number = "a", 1
    document = parse(
        "query ($n: Int, $no: Boolean = false) { branch { leaf { often(times: $n) numbers(times: $n) "
        "... @skip(if: $no) { name } } strict { numbers(times: 3) } } }"
    )
    plain = parse("query ($n: Int) { branch { leaf { often(times: $n) numbers(times: 3) } } }")

    async def answer(planned: Planned, **variables: Any) -> Any:
        context = Odd.of([Branch(leaf=leaf, strict=leaf, leaves=[])], {})
        return (await Executor.run(core, planned, context, variables, None)).data["branch"]["leaf"]

    for one in (document, plain):
        (operation,) = (part for part in one.definitions if isinstance(part, OperationDefinitionNode))
        planned = Planned.of(one, operation)
        for n in (2, 5, 2):
            assert (await answer(planned, n=n))["often"] == f"often {n} word ('a', {n})"
    planned = Planned.of(document, next(iter(document.definitions)))  # type: ignore[arg-type]
    assert "name" in await answer(planned, n=1)
    assert "name" not in await answer(planned, n=1, no=True)


# ── subscriptions ────────────────────────────────────────────────────────────────────────────────────


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def grown(self) -> AsyncGenerator[Branch | None]:
        yield None

    @strawberry.subscription
    async def surely(self) -> AsyncGenerator[Branch]:
        yield Branch(leaf=None, strict=make_leaf_of(random.Random(0)), leaves=[])


async def events(kind: Any, query: str, context: Odd) -> tuple[Any, list[Any]]:
    """The executor of a subscription, and what it makes of each branch: the data, and where errors left nulls."""
    core = strawberry.Schema(Query, subscription=Subscription)._schema
    executor = kind.build(core, parse(query), context_value=context)
    answers = []
    for branch in context.branches:
        result: Any = execute_subscription_event(executor.build_per_event_executor(branch))
        if inspect.isawaitable(result):
            result = await result
        answers.append((result.data, {_hole(result.data, error.path or []) for error in result.errors or ()}))
    return executor, answers


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("root", ["grown", "surely"])
async def test_each_event_of_a_subscription_is_answered_alike(root: str, seed: int) -> None:
    chance = random.Random(seed)
    core = strawberry.Schema(Query)._schema
    branch = core.type_map["Branch"]
    assert isinstance(branch, GraphQLObjectType)
    query = f"subscription {{ {root} {_selection(chance, core, branch, [], 6)} }}"
    branches = [
        Branch(leaf=make_leaf(chance), strict=make_leaf_of(chance), leaves=[make_leaf(chance) for _ in range(2)])
        for _ in range(5)
    ]
    leaves = {name: make_leaf(chance) for name in ("a", "b", "c")}

    _, ours = await events(Executor, query, Odd.of(branches, leaves))
    _, stock = await events(Stock, query, Odd.of(branches, leaves))

    assert ours == stock


@pytest.mark.parametrize("count", [1, 30])
async def test_a_subscription_that_lives_long_remembers_no_more_than_its_document(count: int) -> None:
    leaf = make_leaf_of(random.Random(0))
    branch = Branch(leaf=leaf, strict=leaf, leaves=[leaf, leaf])

    executor, _ = await events(
        Executor, "subscription { grown { leaf { name } leaves { name loud } } }", Odd.of([branch] * count, {})
    )

    # The root, the branch, and both kinds of leaves.
    assert len(executor._plans) == 4
    assert len(executor._relevant_sub_fields) == 3


def test_a_plan_is_not_taken_for_that_of_other_fields_at_the_same_place() -> None:
    core = strawberry.Schema(Query)._schema
    executor: Any = Executor.build(core, parse("{ branch { __typename } branches { __typename } }"))
    query = core.query_type
    assert query is not None
    found = collect_fields(core, {}, executor.variable_values, query, executor.operation).grouped_field_set

    for name in ("branch", "branches") * 50:  # a new one may stand where the last one stood
        assert [step.name for step in executor._plan(query, {name: found[name]})] == [name]


async def test_what_an_operation_held_is_gone_with_it_and_waits_for_no_collector() -> None:
    core = strawberry.Schema(Query)._schema
    leaves = [make_leaf_of(random.Random(0)) for _ in range(3)]
    context = Odd.of([Branch(leaf=None, strict=leaves[0], leaves=leaves)], {})
    executor: Any = Executor.build(
        core, parse("{ branch { leaves { word often slow } linked { slow } } }"), context_value=context
    )
    loaders: Any = Loaders(lambda: None, UUID(int=1))  # type: ignore[arg-type,return-value]
    assert all((loaders.devices, loaders.punches_of_devices))
    left = [weakref.ref(executor), weakref.ref(loaders)]

    gc.disable()
    try:
        await executor.execute_operation()
        del executor, loaders
        await asyncio.sleep(0)
        assert [one() for one in left] == [None, None]
    finally:
        gc.enable()
