"""Every code of the registry, provoked at a real server over the path on which callers meet it; and its page is there.

An error is found by its shape, wherever an answer has it. A code without a provocation fails: add one to PROVOCATIONS.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest

import workers.pool  # noqa: F401  with it, every error is known
from app import ids
from app.database import Database
from app.domain import commands
from app.embedded import EmbeddedPostgres
from app.vault import Vault
from schema import operations
from schema.errors import registry
from schema.socket import SocketLimits
from tests.conftest import SECRET_KEY
from tests.schema.operations import It, calls_of
from tests.schema.parties import Party, make_party, nobody
from tests.schema.sockets import acknowledged
from tests.server import Server, listen

#: Those of the contract's core.
CORE = """
unauthenticated permission_denied rate_limited query_too_complex invalid_id site_not_found device_not_found
employee_not_found punch_not_found command_not_found webhook_endpoint_not_found webhook_delivery_not_found
api_key_not_found invalid_input cursor_invalid cursor_mismatch cursor_expired page_too_large serial_number_taken
time_zone_unknown pin_invalid idempotency_key_reused idempotency_in_progress idempotency_key_ambiguous trial_ended
plan_suspended time_zone_required webhook_url_forbidden device_not_active command_not_supported internal_error
service_unavailable
"""
SITES = "{ sites { nodes { id name } } }"


@dataclass
class Stage:
    """A server, and a tenant of it to which anything may be done."""

    server: Server
    db: Database
    superuser_url: str
    http: httpx.AsyncClient
    party: Party
    patch: pytest.MonkeyPatch
    #: All that came back.
    answers: list[Any] = field(default_factory=list)

    async def ask(self, query: str, variables: dict[str, Any] | None = None, **headers: str) -> None:
        """An operation by POST."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await self.send("POST", "/graphql", json={"query": query, "variables": variables}, headers=named)

    async def send(self, method: str, path: str, *, headers: dict[str, str] | None = None, **body: Any) -> None:
        """A request with the tenant's key."""
        given = {"Authorization": f"Bearer {self.party.api_key}"} | (headers or {})
        response = await self.http.request(method, path, headers=given, **body)
        self.answers.append(response.json())

    async def call(self, field: str, **changes: Any) -> None:
        """A mutation by name, with its usual input less what is changed."""
        call = next(call for call in calls_of("Mutation") if call.name == field)
        variables = call.variables(self.party.names)
        await self.ask(call.document(), {"input": variables["input"] | changes})

    @asynccontextmanager
    async def superuser(self) -> AsyncIterator[asyncpg.Connection]:
        """Past every policy."""
        connection = await asyncpg.connect(self.superuser_url)
        try:
            yield connection
        finally:
            await connection.close()

    @asynccontextmanager
    async def locked(self, table: str) -> AsyncIterator[None]:
        """Nobody gets at a table."""
        async with self.superuser() as connection, connection.transaction():
            await connection.execute(f"LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")
            yield

    async def execute(self, statement: str, *arguments: Any) -> None:
        """As a superuser."""
        async with self.superuser() as connection:
            await connection.execute(statement, *arguments)


Provocation = Callable[[Stage], Awaitable[None]]


def _asks(query: str, variables: dict[str, Any] | None = None, **headers: str) -> Provocation:
    return lambda stage: stage.ask(query, variables, **headers)


def _calls(field: str, *, nobodys: It | None = None, **changes: Any) -> Provocation:
    """A mutation with another input; with an id of nobody's instead of its own."""
    given = changes | ({"id": nobody()[nobodys]} if nobodys else {})
    return lambda stage: stage.call(field, **given)


async def _mismatch(stage: Stage) -> None:
    await stage.ask("{ sites(first: 1) { pageInfo { endCursor } } }")
    cursor = stage.answers[-1]["data"]["sites"]["pageInfo"]["endCursor"]
    await stage.ask("query ($c: String) { devices(after: $c) { nodes { id } } }", {"c": cursor})


async def _expired(stage: Stage) -> None:
    await stage.ask("{ punchFeed(from: BEGINNING, first: 1) { cursor } }")
    cursor = stage.answers[-1]["data"]["punchFeed"]["cursor"]
    for table in ("webhook_attempts", "webhook_deliveries"):
        await stage.execute(f"DELETE FROM {table} WHERE tenant_id = $1", stage.party.tenant_id)
    await stage.execute("DELETE FROM events WHERE tenant_id = $1 AND position <= 2", stage.party.tenant_id)
    subscription = "subscription ($c: String) { punches(after: $c) { cursor } }"
    async with acknowledged(_socket_url(stage), stage.party.api_key) as client:
        await client.subscribe(subscription, variables={"c": cursor})
        stage.answers.append(await client.error())


async def _suspended_device(stage: Stage) -> None:
    await stage.call("deviceSuspend")
    await stage.call("deviceCommandSend")


async def _full_queue(stage: Stage) -> None:
    async with stage.db.write(stage.party.tenant_id) as session:
        for _ in range(commands.MOST_OPEN - 1):
            await commands.send(session, stage.party.tenant_id, stage.party.world.device.id, "refreshInfo", {})
    await stage.call("deviceCommandSend")
    await stage.call("deviceCommandSend")


async def _in_progress(stage: Stage) -> None:
    async with stage.superuser() as connection, connection.transaction():
        await connection.execute(
            "INSERT INTO idempotency_keys (tenant_id, field, key, fingerprint, outcome, created_at) "
            "VALUES ($1, 'siteCreate', 'twin', '\\x00', '{}', now())",
            stage.party.tenant_id,
        )
        await stage.call("siteCreate", idempotencyKey="twin")


async def _broken(stage: Stage) -> None:
    await stage.execute("ALTER TABLE sites RENAME COLUMN name TO gone")
    try:
        await stage.ask(SITES)
    finally:
        await stage.execute("ALTER TABLE sites RENAME COLUMN gone TO name")


async def _away(stage: Stage) -> None:
    async with stage.locked("sites"):
        await stage.ask(SITES)


async def _slow(stage: Stage) -> None:
    stage.patch.setattr(operations, "DEADLINE", 0.3)
    async with stage.locked("sites"):
        await stage.ask(SITES)


async def _weak_key(stage: Stage) -> None:
    await stage.call("apiKeyCreate", scopes=["audit:read"])
    weak = stage.answers[-1]["data"]["answer"]["secret"]
    await stage.ask(SITES, Authorization=f"Bearer {weak}")


async def _too_much_at_once(stage: Stage) -> None:
    subscription = "subscription { punches { cursor } }"
    async with acknowledged(_socket_url(stage), stage.party.api_key) as client:
        for number in range(SocketLimits().operations + 1):
            await client.subscribe(subscription, id=str(number))
        while (message := await client.recv())["type"] != "error":
            pass
        stage.answers.append(message["payload"])


async def _taken(stage: Stage) -> None:
    await stage.call("deviceRegister", serialNumber=stage.party.names[It.SERIAL])


async def _after_the_trial(stage: Stage) -> None:
    await stage.execute(
        "UPDATE tenants SET created_at = created_at - $2::interval, trial_ends_at = trial_ends_at - $2::interval "
        "WHERE id = $1",
        stage.party.tenant_id,
        timedelta(days=8),
    )
    await stage.call("siteCreate")


async def _unpaid(stage: Stage) -> None:
    tenant_id = ids.show("ten", stage.party.tenant_id)
    await _command_line(stage, "tenant", "activate", tenant_id)
    await _command_line(stage, "tenant", "suspend", tenant_id)
    await stage.call("siteCreate")


async def _no_such_tenant(stage: Stage) -> None:
    said = await _command_line(stage, "tenant", "activate", nobody()[It.TENANT])
    assert said.startswith("No tenant ten_"), said
    stage.answers.append({"code": "tenant_not_found", "status": 404, "docUrl": _page_of(stage, "tenant_not_found")})


async def _command_line(stage: Stage, *arguments: str) -> str:
    """What `punchconnect` says on standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.cli",
        *arguments,
        env={
            "PUNCHCONNECT_DATABASE_URL": stage.server.settings.database_url.get_secret_value(),
            "PUNCHCONNECT_SECRET_KEY": SECRET_KEY,
        },
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return said.decode()


PROVOCATIONS: dict[str, Provocation] = {
    "api_key_not_found": _calls("apiKeyRevoke", nobodys=It.KEY),
    "bad_request": lambda stage: stage.send("POST", "/graphql", json=[{"query": SITES}]),
    "command_not_found": _calls("deviceCommandCancel", nobodys=It.COMMAND),
    "command_not_supported": _calls("deviceCommandSend", command={"unlockDoor": {"door": 2}}),
    "command_queue_full": _full_queue,
    "cursor_expired": _expired,
    "cursor_invalid": _asks('{ sites(after: "nonsense") { nodes { id } } }'),
    "cursor_mismatch": _mismatch,
    "device_not_active": _suspended_device,
    "device_not_found": _calls("deviceSuspend", nobodys=It.DEVICE),
    "employee_not_found": _asks('{ employee(pin: "99999999") { id } }'),
    "graphql_syntax_error": _asks("{ sites"),
    "graphql_validation_failed": _asks("{ nothing }"),
    "headers_too_large": lambda stage: stage.send("GET", "/graphql", headers={"X-Long": "x" * 2**16}),
    "host_not_allowed": lambda stage: stage.send("GET", "/docs/", headers={"Host": "evil.example"}),
    "idempotency_in_progress": _in_progress,
    "idempotency_key_ambiguous": _asks(
        'mutation { a: siteCreate(input: {name: "A", timeZone: "UTC"}) { site { id } } '
        'b: siteCreate(input: {name: "B", timeZone: "UTC"}) { site { id } } }',
        Idempotency_Key="one",
    ),
    "idempotency_key_reused": lambda stage: stage.call(
        "siteCreate", idempotencyKey=stage.party.names[It.IDEMPOTENCY_KEY]
    ),
    "internal_error": _broken,
    "invalid_id": _asks('{ site(id: "nonsense") { id } }'),
    "invalid_input": _calls("siteCreate", name=""),
    "method_not_allowed": lambda stage: stage.send("PUT", "/graphql"),
    "not_acceptable": _asks(SITES, Accept="text/html"),
    "not_found": lambda stage: stage.send("GET", "/nowhere"),
    "operation_timed_out": _slow,
    "page_too_large": _asks("{ sites(first: 101) { nodes { id } } }"),
    "payload_too_large": lambda stage: stage.send(
        "POST", "/graphql", content=b" " * (2**20 + 1), headers={"Content-Type": "application/json"}
    ),
    "permission_denied": _weak_key,
    "pin_invalid": _calls("employeeUpsert", pin="not a pin"),
    "plan_suspended": _unpaid,
    "punch_not_found": lambda stage: stage.ask(f'{{ punch(id: "{nobody()[It.PUNCH]}") {{ id }} }}'),
    "query_too_complex": _asks("{ a " * 30 + "{ id }" + " }" * 30),
    "rate_limited": _too_much_at_once,
    "serial_number_taken": _taken,
    "service_unavailable": _away,
    "site_not_found": _calls("siteUpdate", nobodys=It.SITE),
    "tenant_not_found": _no_such_tenant,
    "time_zone_required": _calls("deviceRegister", siteId=None),
    "time_zone_unknown": _calls("siteCreate", timeZone="Mars/Olympus"),
    "trial_ended": _after_the_trial,
    "unauthenticated": _asks(SITES, Authorization="Bearer pc_live_nonsense"),
    "unsupported_media_type": lambda stage: stage.send(
        "POST", "/graphql", content=b"{}", headers={"Content-Type": "text/plain"}
    ),
    "webhook_delivery_not_found": _calls("webhookDeliveryRetry", nobodys=It.DELIVERY),
    "webhook_endpoint_not_found": _calls("webhookEndpointDelete", nobodys=It.ENDPOINT),
    "webhook_replay_not_found": lambda stage: stage.ask(f'{{ webhookReplay(id: "{nobody()[It.REPLAY]}") {{ id }} }}'),
    "webhook_url_forbidden": _calls("webhookEndpointCreate", url="https://127.0.0.1/"),
}


def codes() -> dict[str, int]:
    """Every code of ours and its status; tests make errors too."""
    return {
        code: kind.status
        for code, kind in registry().items()
        if kind.__module__.partition(".")[0] in ("app", "schema", "workers")
    }


@pytest.fixture(scope="module")
async def server(postgres: EmbeddedPostgres, template: str) -> AsyncIterator[Server]:
    """A server over a database of its own, which tests may break and mend."""
    admin = await asyncpg.connect(postgres.url)
    await admin.execute(f"CREATE DATABASE provoked TEMPLATE {template}")
    await admin.close()
    with listen() as place:
        port = place.getsockname()[1]
    url = postgres.url.rsplit("/", 1)[0] + "/provoked"
    knobs: dict[str, Any] = {
        "public_url": f"http://127.0.0.1:{port}",
        "allowed_hosts": ("127.0.0.1",),
        "database_timeout_seconds": 3,
    }
    async with Server(url, port=port, **knobs) as server:
        yield server


@pytest.fixture
async def stage(
    server: Server, postgres: EmbeddedPostgres, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Stage]:
    """A tenant of the server, new."""
    superuser_url = postgres.superuser_url.rsplit("/", 1)[0] + "/provoked"
    db = server.application.db
    async with httpx.AsyncClient(base_url=server.settings.public_url, trust_env=False, timeout=30) as client:
        yield Stage(server, db, superuser_url, client, await make_party(db, vault), monkeypatch)


def test_every_code_is_provoked_and_the_contracts_are_there() -> None:
    assert PROVOCATIONS.keys() == codes().keys(), "add a provocation of each code to PROVOCATIONS"
    assert set(CORE.split()) <= codes().keys()


@pytest.mark.parametrize("code", sorted(PROVOCATIONS))
async def test_a_code_is_what_callers_get_and_its_page_says_what_to_do(stage: Stage, code: str) -> None:
    await PROVOCATIONS[code](stage)

    told = [error for error in _errors(stage.answers) if error["code"] == code]
    assert told, stage.answers
    for error in told:
        assert error.get("status", codes()[code]) == codes()[code]
        assert (error.get("docUrl") or error.get("doc_url")) == _page_of(stage, code)
    page = await stage.http.get(_page_of(stage, code), follow_redirects=True)
    assert page.status_code == 200
    for part in ("Cause", "Example", "Fix"):
        assert part in page.text


def _page_of(stage: Stage, code: str) -> str:
    return f"{stage.server.settings.public_url}/docs/errors/{code}"


def _socket_url(stage: Stage) -> str:
    return f"ws://127.0.0.1:{stage.server.port}/graphql"


def _errors(answer: Any) -> Iterator[dict[str, Any]]:
    """Whatever has a code and a page, at any depth."""
    if isinstance(answer, list):
        for each in answer:
            yield from _errors(each)
    elif isinstance(answer, dict):
        if "code" in answer and ("docUrl" in answer or "doc_url" in answer):
            yield answer
        for each in answer.values():
            yield from _errors(each)
