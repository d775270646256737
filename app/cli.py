"""`punchconnect`: dev, serve, work, migrate, tenant, key, simulate, schema.

Exit codes: 0 done; 1 failed, and one line on stderr says why and what to do; 2 wrong usage. With --json there is one
object on stdout and nothing else; progress goes to stderr, and only to a terminal.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
import uvicorn
from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number
from pydantic import ValidationError
from rich.console import Console

from app import dev as development
from app import ids, listening, migrations, simulator, telemetry
from app.database import Database
from app.domain import enrollments, keys, signups, tenants
from app.domain.tables import now
from app.embedded import EmbeddedError
from app.errors import AppError
from app.settings import Settings
from app.vault import Vault

#: Longer messages on a socket are refused while they arrive.
SOCKET_MESSAGE_BYTES = 128 * 1024
#: Seconds between a socket's last sign of life and the next ping, and for its answer.
PING_EVERY = 20.0
PONG_WITHIN = 20.0
#: Seconds in which a server has to be found where virtual terminals shall go. One that just starts is waited for.
REACHED_WITHIN = 10.0

#: Arguments that have a range.
Port = Annotated[int, Parameter(validator=Number(gte=1, lte=65_535))]
AnyPort = Annotated[int, Parameter(validator=Number(gte=0, lte=65_535))]  # 0: one that is free
Some = Annotated[int, Parameter(validator=Number(gte=1))]
AnyNumber = Annotated[int, Parameter(validator=Number(gte=0))]
Rate = Annotated[float, Parameter(validator=Number(gt=0, lt=math.inf))]
Seconds = Annotated[float, Parameter(validator=Number(gte=0))]

app = App(name="punchconnect", help="ZKTeco punches to GraphQL, live subscriptions and signed webhooks.")
tenant_app = App(name="tenant", help="The operator's side of tenants and their plans.")
key_app = App(name="key", help="API keys.")
app.command(tenant_app)
app.command(key_app)
err = Console(stderr=True)


class Failed(Exception):
    """Said in one line; the process ends with 1."""


class WrongUsage(Exception):
    """Said in one line; the process ends with 2."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point of the `punchconnect` command."""
    _end_with_parent()
    try:
        result = app(arguments, exit_on_error=False, print_error=False)
    except (CycloptsError, WrongUsage) as exc:
        print(exc, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(0)
    except ValidationError as exc:
        first = exc.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        print(f"Setting PUNCHCONNECT_{name}: {first['msg']}", file=sys.stderr)
        sys.exit(1)
    except (Failed, AppError, EmbeddedError, listening.CannotListen, OSError, ValueError) as exc:
        print(exc, file=sys.stderr)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)


@app.command
async def dev(
    *,
    host: str = "127.0.0.1",
    port: Port = 8080,
    data_dir: Path = development.DATA_DIR,
    devices: AnyNumber = 3,
    workers: AnyNumber = 1,
) -> None:
    """Everything in one command: servers, a demo tenant with a key, a worker and virtual terminals that punch."""
    plan = development.Plan(host=host, port=port, data_dir=data_dir, devices=devices, workers=workers)
    await development.run(plan, err if sys.stderr.isatty() else None)


@app.command
def serve(*, host: str = "127.0.0.1", port: AnyPort = 8080, processes: Some = 1) -> None:
    """The HTTP side: GraphQL, live feed, terminals, pages."""
    settings = _settings()
    listening.ask(host, port)
    telemetry.configure(settings.log_level, settings.log_format)
    try:
        uvicorn.run(
            "app.main:create_app",
            factory=True,
            host=host,
            port=port,
            workers=processes if processes > 1 else None,
            loop="uvloop",
            http="app.web.wire:Http",
            ws="app.web.wire:Wire",
            ws_max_size=SOCKET_MESSAGE_BYTES,
            ws_per_message_deflate=False,
            # Ours come first: a socket that uvicorn gives up on ends with 1011, which clients take for final.
            ws_ping_interval=PING_EVERY,
            ws_ping_timeout=PONG_WITHIN,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=10,
            backlog=2048,
            server_header=False,
            # Whose header may say where a request comes from is for our settings to say: see TRUSTED_PROXIES.
            proxy_headers=False,
            access_log=False,
            log_config=None,
        )
    except SystemExit as exc:
        if exc.code:
            raise Failed("The server did not start; the log above says why.") from exc
        raise


@app.command
def work(*, concurrency: Some = 50, metrics_port: AnyPort | None = None) -> None:
    """The webhook worker; run as many as you like, anywhere."""
    import uvloop  # noqa: PLC0415  the other commands start without either

    from workers.pool import work as run  # noqa: PLC0415

    settings = _settings()
    if metrics_port is not None:
        listening.ask("127.0.0.1", metrics_port, by="--metrics-port")
    telemetry.configure(settings.log_level, settings.log_format)
    uvloop.run(run(settings, concurrency=concurrency, metrics_port=metrics_port))


@app.command
async def migrate() -> None:
    """Bring the database to this version. Needs the owner's URL; safe to repeat and to run twice at once."""
    settings = _settings(secret=False)
    telemetry.configure(settings.log_level, settings.log_format)
    await migrations.upgrade(settings.database_url.get_secret_value())


@tenant_app.command(name="create")
async def tenant_create(name: str, /, *, json: bool = False) -> None:
    """A tenant on trial with a first key, shown this once."""
    settings = await _operator_settings()
    async with _operator(settings) as connection:
        created = await tenants.create(connection, _vault(settings), name)
    address = enrollments.spell(created.enrollment_token, created.enrollment_label, settings)
    _show(
        {
            "tenant_id": ids.show("ten", created.tenant.id),
            "api_key": created.api_key,
            "enrollment_url": address.url,
            "enrollment_host": address.host,
        },
        json=json,
    )


@tenant_app.command(name="list")
async def tenant_list(*, json: bool = False) -> None:
    """Every tenant, the oldest first."""
    async with _operator(await _operator_settings()) as connection:
        found, emails = await tenants.list_all(connection), await signups.emails(connection)
    rows = [_tenant(tenant) | {"email": emails.get(tenant.id)} for tenant in found]
    if json:
        _show({"tenants": rows}, json=True)
    for row in [] if json else rows:
        print(f"{row['tenant_id']}  {row['plan']:<9}  {row['name']}" + (f"  <{row['email']}>" if row["email"] else ""))


@tenant_app.command(name="activate")
async def tenant_activate(id: str, /, *, json: bool = False) -> None:
    """The plan is paid."""
    async with _operator(await _operator_settings()) as connection:
        tenant = await tenants.activate(connection, ids.read("ten", id))
    _show(_tenant(tenant), json=json)


@tenant_app.command(name="suspend")
async def tenant_suspend(id: str, /, *, json: bool = False) -> None:
    """The plan is not paid: terminals are still heard, everything can be read, nothing written."""
    async with _operator(await _operator_settings()) as connection:
        tenant = await tenants.suspend(connection, ids.read("ten", id))
    _show(_tenant(tenant), json=json)


@key_app.command(name="create")
async def key_create(*, tenant: str, name: str, scopes: str, json: bool = False) -> None:
    """A key of a tenant, shown this once. Scopes are separated by spaces."""
    settings = await _operator_settings()
    key, secret = keys.issue(ids.read("ten", tenant), name, scopes.split(), None, _vault(settings))
    async with _operator(settings) as connection:
        await tenants.get_any(connection, key.tenant_id)
        await keys.add_any(connection, key)
    _show({"key_id": ids.show("key", key.id), "api_key": secret, "scopes": key.scopes}, json=json)


@key_app.command(name="revoke")
async def key_revoke(id: str, /, *, json: bool = False) -> None:
    """End a key now; it stops working everywhere within 5 seconds."""
    async with _operator(await _operator_settings()) as connection:
        await keys.revoke_any(connection, ids.read("key", id))
    _show({"key_id": id, "revoked": True}, json=json)


@app.command
async def simulate(
    *,
    url: str,
    devices: Some = 3,
    rate: Rate = 1.0,
    duration: Seconds = 60.0,
    scenario: str = "steady",
    employees: Some = 200,
    seed: int | None = None,
    dialect: str = "attendance",
    quirks: str = "",
    memory: Path | None = None,
    json: bool = False,
) -> int:
    """Virtual terminals that speak the real protocol and keep every record until it is acknowledged.

    Parameters
    ----------
    url
        The tenant's enrolment URL.
    rate
        Punches per second over all terminals.
    duration
        Seconds of punching; afterwards they go on until everything is acknowledged. `inf` never ends.
    scenario
        steady, rush, outage, resend-all, clock-drift, factory-reset or flaky-link.
    dialect
        What they speak: attendance, security, or both in turn.
    quirks
        Oddities of their firmware, separated by spaces: no-final-newline, crlf, zero-based, stamp-ignored, gb18030,
        windows-1256, resend-all, packets.
    memory
        A file in which they keep what they hold, as in flash: a later run with it goes on from there. Without one they
        begin empty, which a server that knows them takes for a reset.
    """
    stop = asyncio.Event()
    for name in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    show = err if sys.stderr.isatty() and not json else None
    with err.status("Terminals are starting …") if show else _Silence() as status:
        await _reach(url, stop)

        def progress(report: simulator.Report) -> None:
            if show:
                status.update(
                    f"{report.made} made, {report.acknowledged} acknowledged, {report.resent} resent, "
                    f"{report.refused} refused"
                )

        report = await _simulate(
            url,
            devices=devices,
            rate=rate,
            duration=duration,
            scenario=scenario,
            employees=employees,
            seed=seed,
            dialect=dialect,
            quirks=quirks.split(),
            memory=memory,
            stop=stop,
            progress=progress,
        )
    _show(report.as_dict(), json=json)
    if report.unacknowledged and not stop.is_set():
        raise Failed(_left(report))
    return 0


@app.command
def schema() -> None:
    """Print the GraphQL SDL."""
    from schema import sdl  # noqa: PLC0415  the other commands start without Strawberry

    print(sdl(), end="")


async def _reach(url: str, stop: asyncio.Event) -> None:
    """Whoever cannot be dialled now would leave all records unacknowledged, and say so after minutes."""
    reaching, stopping = asyncio.create_task(simulator.reach(url, REACHED_WITHIN)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({reaching, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if reaching.done():
            reaching.result()
    except ValueError as exc:
        raise WrongUsage(str(exc)) from exc
    except simulator.Unreachable as exc:
        there = urlsplit(url)
        raise Failed(
            f"No terminal reaches {there.scheme}://{there.netloc.rpartition('@')[2]} ({exc}). Is a server running "
            "there?"
        ) from exc
    finally:
        for task in (reaching, stopping):
            task.cancel()


def _left(report: simulator.Report) -> str:
    trouble = (report.last_trouble or "no answer").removesuffix(".")
    return f"{report.unacknowledged} records were not acknowledged: {trouble}."


async def _simulate(url: str, **plan: Any) -> simulator.Report:
    try:
        return await simulator.simulate(url, **plan)
    except ValueError as exc:
        raise WrongUsage(str(exc)) from exc
    except simulator.MemoryUnusable as exc:
        raise Failed(str(exc)) from exc


class _Silence:
    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_exc: object) -> None:
        pass


class _operator:  # noqa: N801  a context manager that reads like a function
    """The operator's door, with the pools closed behind it."""

    def __init__(self, settings: Settings) -> None:
        self._db = Database(settings.database_url.get_secret_value(), pool=2)

    async def __aenter__(self) -> Any:
        self._transaction = self._db.across("operate")
        return await self._transaction.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        try:
            await self._transaction.__aexit__(*exc)
        finally:
            await self._db.stop()


async def _operator_settings() -> Settings:
    """For commands beside a running `dev`: what is not set is what that installation uses."""
    settings = Settings()
    url = settings.database_url.get_secret_value()
    if url and settings.secret_key.get_secret_value():
        return settings
    found = await development.find_settings(url) if url else development.read_settings(development.DATA_DIR)
    return _complete(Settings.model_validate(found | settings.model_dump(exclude_unset=True)))


def _settings(*, secret: bool = True) -> Settings:
    return _complete(Settings(), secret=secret)


def _complete(settings: Settings, *, secret: bool = True) -> Settings:
    if not settings.database_url.get_secret_value():
        raise Failed("Set PUNCHCONNECT_DATABASE_URL to a PostgreSQL, or use `punchconnect dev`, which brings its own.")
    if secret and not settings.secret_key.get_secret_value():
        raise Failed("Set PUNCHCONNECT_SECRET_KEY to at least 32 random characters, the same for every process.")
    return settings


def _vault(settings: Settings) -> Vault:
    return Vault(settings.secret_key.get_secret_value())


def _tenant(tenant: tenants.Tenant) -> dict[str, Any]:
    return {
        "tenant_id": ids.show("ten", tenant.id),
        "name": tenant.name,
        "plan": str(tenant.standing(now())),
        "trial_ends_at": tenant.trial_ends_at,
    }


def _show(facts: dict[str, Any], *, json: bool) -> None:
    if json:
        print(orjson.dumps(facts, default=str).decode())
        return
    for name, value in facts.items():
        shown = " ".join(value) if isinstance(value, list) else value
        print(f"{name:<16} {'-' if shown is None or (isinstance(shown, float) and math.isnan(shown)) else shown}")


def _end_with_parent() -> None:
    """A child of `dev` goes when `dev` goes, however that went: it must not hold the port against the next one."""
    parent = os.environ.pop(development.PARENT, None)
    if parent is None or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit(0)


if __name__ == "__main__":
    main()
