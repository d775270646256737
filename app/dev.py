"""`punchconnect dev`: a whole installation under one directory, for one person on one machine.

Two embedded servers unless the settings name others, a demo tenant, and the same processes that production runs, as
children: one that dies is started again, and all end with this one. What must survive lies in the data directory.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import orjson
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from app import ids, listening, migrations
from app.database import Database, driver
from app.domain import devices, enrollments, roster, sites, tenants
from app.embedded import DataDirInUse, EmbeddedError, EmbeddedPostgres, EmbeddedRedis
from app.errors import AppError
from app.settings import Settings
from app.simulator import serial_numbers
from app.vault import Vault

#: Where everything lies unless another place is named.
DATA_DIR: Final = Path(".punchconnect")
#: Tells a child whose child it is.
PARENT: Final = "PUNCHCONNECT_DEV_PARENT"
_DEVICE_DOMAIN: Final = "devices.localhost"
_APP_ROLE: Final = "punchconnect_app"
_SECRETS: Final = "secrets.json"
_LOCK: Final = "dev.lock"
#: A setting of the embedded database.
_DATA_DIR: Final = "punchconnect.data_dir"
_READY_SECONDS: Final = 60
_STOP_SECONDS: Final = 20
#: How long a server whose parent was killed may keep the port.
_PORT_SECONDS: Final = 10
_NAMES: Final = (
    "Amina Alaoui", "Brahim Berrada", "Chaimae Cherkaoui", "Driss Drissi", "Elena Esposito", "Farid Filali",
    "Grace Gathoni", "Hamza Hajji", "Ilham Idrissi", "Jonas Jensen", "Karima Kabbaj", "Lahcen Lamrani",
    "Mei Moreau", "Nadia Naciri", "Omar Ouazzani", "Petra Petrov", "Qasim Qadiri", "Rachid Rami",
    "Salma Sefrioui", "Tariq Tazi",
)  # fmt: skip


class DataDirUnusable(EmbeddedError):
    """Nothing can be kept there."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What was asked for on the command line."""

    host: str
    port: int
    data_dir: Path
    devices: int
    workers: int


@dataclass(slots=True)
class Installation:
    """What is running, and where."""

    plan: Plan
    secret_key: str
    metrics_token: str
    app_password: str
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    postgres: EmbeddedPostgres | None = None
    redis: EmbeddedRedis | None = None
    owner_url: str = ""
    app_url: str = ""
    redis_url: str = ""
    tenant: dict[str, str] = field(default_factory=dict)
    children: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def public_url(self) -> str:
        given = os.environ.get("PUNCHCONNECT_PUBLIC_URL")
        host = "127.0.0.1" if self.plan.host in {"0.0.0.0", "::"} else self.plan.host  # noqa: S104
        return given or f"http://{f'[{host}]' if ':' in host else host}:{self.plan.port}"

    @property
    def local_url(self) -> str:
        return f"http://127.0.0.1:{self.plan.port}"


async def run(plan: Plan, console: Console | None) -> None:
    """Start everything, say where it is, and keep it running until SIGINT or SIGTERM.

    Raises DataDirInUse beside another one in the same directory, DataDirUnusable, CannotListen.
    """
    data_dir = _provide_data_dir(plan.data_dir)
    with _alone(data_dir):
        await _find_port_free(plan)
        await _run(plan, data_dir, console)


def _provide_data_dir(named: Path) -> Path:
    try:
        named.mkdir(parents=True, exist_ok=True, mode=0o700)
        (named / _LOCK).touch()
    except (OSError, ValueError) as exc:
        reason: object = exc
        if isinstance(exc, FileExistsError | NotADirectoryError):
            reason = "it is a file, or below one"
        elif isinstance(exc, OSError):
            reason = exc.strerror
        raise DataDirUnusable(f"{named} cannot be the data directory: {reason}. Name another by --data-dir.") from exc
    return named.resolve()


async def _run(plan: Plan, data_dir: Path, console: Console | None) -> None:
    announced = data_dir / "dev.json"
    announced.unlink(missing_ok=True)  # of one that died
    here = _installation(plan, data_dir)
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, here.stop.set)
    try:
        await _start_servers(here, data_dir)
        await migrations.upgrade(here.owner_url)
        await _provide_app_role(here)
        await _provide_tenant(here, data_dir)
        _start_children(here)
        if await _ready(here, data_dir):
            facts = _facts(here)
            _write_private(announced, orjson.dumps(facts, option=orjson.OPT_INDENT_2))
            _say(facts, console)
            await _supervise(here)
    finally:
        announced.unlink(missing_ok=True)
        await _stop(here)


@contextlib.contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """What is announced in a directory is of whoever holds this, wherever the servers are."""
    with (data_dir / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DataDirInUse(
                f"{data_dir} already has a dev running. Stop that one first or choose another directory by --data-dir."
            ) from None
        yield


async def _find_port_free(plan: Plan) -> None:
    deadline = asyncio.get_running_loop().time() + _PORT_SECONDS
    while True:
        try:
            return listening.ask(plan.host, plan.port)
        except listening.PortTaken:
            if asyncio.get_running_loop().time() > deadline:
                raise
        await asyncio.sleep(0.2)


def _installation(plan: Plan, data_dir: Path) -> Installation:
    path = data_dir / _SECRETS
    if path.exists():
        kept = orjson.loads(path.read_bytes())
    else:
        kept = {name: secrets.token_urlsafe(32) for name in ("secret_key", "metrics_token", "app_password")}
        _write_private(path, orjson.dumps(kept))
    given = Settings()
    return Installation(
        plan,
        secret_key=given.secret_key.get_secret_value() or kept["secret_key"],
        metrics_token=given.metrics_token.get_secret_value() if given.metrics_token else kept["metrics_token"],
        app_password=kept["app_password"],
    )


async def _start_servers(here: Installation, data_dir: Path) -> None:
    given = Settings()
    here.owner_url = given.database_url.get_secret_value()
    here.redis_url = given.redis_url.get_secret_value() if given.redis_url else ""
    if not here.owner_url:
        here.postgres = EmbeddedPostgres(data_dir / "postgres")
        await asyncio.to_thread(here.postgres.start)
        here.owner_url = here.postgres.url
        await _say_where(here.postgres, data_dir)
    if not here.redis_url:
        here.redis = EmbeddedRedis(data_dir / "redis")
        await asyncio.to_thread(here.redis.start)
        here.redis_url = here.redis.url


async def find_settings(database_url: str) -> dict[str, Any]:
    """Settings of the installation that `dev` keeps behind `database_url`; none when it is not one on this machine.

    They lie in the data directory, for its user alone; the database knows only where that is.
    """
    try:
        connection = await asyncpg.connect(database_url, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return {}
    try:
        data_dir = await connection.fetchval("SELECT current_setting($1, true)", _DATA_DIR)
    finally:
        await connection.close()
    return read_settings(Path(data_dir)) if data_dir else {}


def read_settings(data_dir: Path) -> dict[str, Any]:
    """What a command beside a running `dev` takes from its data directory."""
    found: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        found["secret_key"] = orjson.loads((data_dir / _SECRETS).read_bytes())["secret_key"]
    with contextlib.suppress(OSError, ValueError, KeyError):
        running = orjson.loads((data_dir / "dev.json").read_bytes())
        found["database_url"], found["public_url"] = running["database_url"], running["url"]
        found["device_domain"] = running["enrollment_host"].partition(".")[2] or None
    return found


async def _say_where(postgres: EmbeddedPostgres, data_dir: Path) -> None:
    """Let the database tell the command line where this installation's secrets are kept."""
    connection = await asyncpg.connect(postgres.superuser_url)
    try:
        quoted = str(data_dir).replace("'", "''")
        await connection.execute(f"ALTER DATABASE punchconnect SET {_DATA_DIR} = '{quoted}'")
    finally:
        await connection.close()


async def _provide_app_role(here: Installation) -> None:
    """The processes do not connect as the owner: a login that can only become one of the application's roles."""
    if here.postgres is None:
        here.app_url = here.owner_url
        return
    connection = await asyncpg.connect(here.owner_url)
    try:
        roles = "pc_api, pc_stream, pc_ingest, pc_feed, pc_worker, pc_lookup, pc_ops"
        password = here.app_password  # URL-safe base 64: nothing to quote
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", _APP_ROLE):
            await connection.execute(f"CREATE ROLE {_APP_ROLE} LOGIN NOINHERIT")
        await connection.execute(f"ALTER ROLE {_APP_ROLE} PASSWORD '{password}'")
        await connection.execute(f"GRANT {roles} TO {_APP_ROLE}")
        # So that the owner may end its sessions.
        await connection.execute(f"GRANT {_APP_ROLE} TO CURRENT_USER")
    finally:
        await connection.close()
    parts = urlsplit(here.owner_url)
    netloc = f"{_APP_ROLE}:{here.app_password}@{parts.hostname}:{parts.port}"
    here.app_url = urlunsplit(parts._replace(netloc=netloc))


async def _provide_tenant(here: Installation, data_dir: Path) -> None:
    """The demo tenant: made once, and the same as long as the data directory and the database are."""
    path = data_dir / "tenant.json"
    settings, vault = _child_settings(here), Vault(here.secret_key)
    db = Database(here.app_url, pool=2)
    try:
        kept = orjson.loads(path.read_bytes()) if path.exists() else None
        if kept is not None:
            async with db.across("operate") as connection:
                found = {ids.show("ten", tenant.id): tenant for tenant in await tenants.list_all(connection)}
                kept = kept if kept["tenant_id"] in found else None
                # A data directory may be older than a trial, and nobody sells this tenant a plan.
                if kept is not None and found[kept["tenant_id"]].plan == tenants.Plan.TRIAL:
                    await tenants.activate(connection, found[kept["tenant_id"]].id)
        if kept is None:
            async with db.across("operate") as connection:
                created = await tenants.create(connection, vault, "Demo", key_name="dev")
                await tenants.activate(connection, created.tenant.id)
            kept = {
                "tenant_id": ids.show("ten", created.tenant.id),
                "api_key": created.api_key,
                "token": created.enrollment_token,
                "label": created.enrollment_label,
            }
            _write_private(path, orjson.dumps(kept))
        address = enrollments.spell(kept["token"], kept["label"], settings)
        here.tenant = kept | {"enrollment_url": address.url, "enrollment_host": address.host or ""}
        await _furnish(here, db)
    finally:
        await db.stop()


async def _furnish(here: Installation, db: Database) -> None:
    """A site, its terminals and a few people, so that the first query has something to show."""
    tenant_id = ids.read("ten", here.tenant["tenant_id"])
    async with db.read(tenant_id) as session:
        connection = await driver(session)
        site_id = await connection.fetchval("SELECT id FROM sites ORDER BY id LIMIT 1")
        known = {row[0] for row in await connection.fetch("SELECT serial_number FROM devices")}
    if site_id is None:
        people = [
            roster.Person(f"{number:04}", {"name": name, "external_id": f"E-{number:03}"})
            for number, name in enumerate(_NAMES, 1)
        ]
        # Both or neither: a start cut short is made up for by the next one.
        async with db.write(tenant_id) as session:
            site_id = (await sites.create(session, tenant_id, "Main gate", "Africa/Casablanca")).id
            await roster.upsert_all(session, tenant_id, people)
    for number, serial in enumerate(serial_numbers(here.plan.devices), 1):
        if serial not in known:
            with contextlib.suppress(AppError):  # registered by hand meanwhile
                async with db.write(tenant_id) as session:
                    await devices.register(session, tenant_id, serial, name=f"Terminal {number}", site_id=site_id)


def _child_settings(here: Installation) -> Settings:
    return Settings.model_validate(
        {name.removeprefix("PUNCHCONNECT_").lower(): value for name, value in _environment(here).items()}
    )


def _environment(here: Installation) -> dict[str, str]:
    """What children are told. Limits are far out of the way unless somebody set them; the headers stay."""
    ours = {
        "DATABASE_URL": here.app_url,
        "REDIS_URL": here.redis_url,
        "SECRET_KEY": here.secret_key,
        "METRICS_TOKEN": here.metrics_token,
    }
    if here.tenant:
        ours["DEMO_KEY"] = here.tenant["api_key"]
    defaults = {
        "PUBLIC_URL": here.public_url,
        "DEVICE_DOMAIN": _DEVICE_DOMAIN,
        "SHARED_ADDRESS": "approve",
        "WEBHOOK_ALLOW_NETWORKS": "127.0.0.0/8,::1/128",
        "WEBHOOK_ALLOW_HTTP": "true",
        "API_POINTS": "1000000000",
        "API_RESTORE": "1000000",
        "DEVICE_RATE": "1000000",
        "DEVICE_BURST": "1000000",
        "SOCKETS_PER_KEY": "100000",
        "SOCKETS_PER_TENANT": "100000",
        "LOG_FORMAT": "console" if sys.stderr.isatty() else "json",
        "LOG_LEVEL": "WARNING",
    }
    given = {name: value for name, value in os.environ.items() if name.startswith("PUNCHCONNECT_")}
    merged = {f"PUNCHCONNECT_{name}": value for name, value in defaults.items()} | given
    merged |= {f"PUNCHCONNECT_{name}": value for name, value in ours.items()}
    domain = merged["PUNCHCONNECT_DEVICE_DOMAIN"].partition(":")[0]
    merged.setdefault("PUNCHCONNECT_ALLOWED_HOSTS", f"127.0.0.1,localhost,[::1],*.{domain}")
    return merged


def _start_children(here: Installation) -> None:
    serve = ["serve", "--host", here.plan.host, "--port", str(here.plan.port)]
    commands = [serve] + [["work"]] * here.plan.workers
    for command in commands:
        here.children.append(asyncio.create_task(_keep_running(here, command), name=command[0]))


def _start_terminals(here: Installation, data_dir: Path) -> None:
    if here.plan.devices < 1:
        return
    parts = urlsplit(here.tenant["enrollment_url"])
    url = here.local_url + parts.path  # whatever the public URL is, these are here
    people = ["--employees", str(len(_NAMES))]
    pace = ["--devices", str(here.plan.devices), "--rate", "0.5", "--duration", "inf"]
    # A terminal that a restart empties would look reset to the server, rightly, for a week.
    memory = ["--memory", str(data_dir / "terminals.db")]
    command = ["simulate", "--url", url, *pace, *people, *memory, "--json"]
    here.children.append(asyncio.create_task(_keep_running(here, command), name="simulate"))


async def _keep_running(here: Installation, command: list[str]) -> None:
    """Run a child until told to stop; start it again when it ends by itself."""
    environment = os.environ | _environment(here) | {PARENT: str(os.getpid())}
    pause = 0.2
    while True:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.cli",
            *command,
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            # Ctrl-C goes to the whole group; it is for this process to say who stops when.
            start_new_session=True,
        )
        began = asyncio.get_running_loop().time()
        try:
            await process.wait()
        except asyncio.CancelledError:
            await _end(process)
            raise
        if here.stop.is_set():
            return
        pause = 0.2 if asyncio.get_running_loop().time() - began > 10 else min(pause * 2, 5)
        await asyncio.sleep(pause)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _ready(here: Installation, data_dir: Path) -> bool:
    """Wait until the server can serve. Raises when it cannot be had; False when stopped meanwhile."""
    deadline = asyncio.get_running_loop().time() + _READY_SECONDS
    while not here.stop.is_set():
        if await _answers(here):
            _start_terminals(here, data_dir)
            return True
        if asyncio.get_running_loop().time() > deadline:
            raise TimeoutError(f"The server did not answer on port {here.plan.port}: is the port taken? Try --port.")
        await asyncio.sleep(0.1)
    return False


async def _answers(here: Installation) -> bool:
    """Whether it is our server that answers there: it knows our metrics token."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", here.plan.port)
    except OSError:
        return False
    try:
        head = f"Host: 127.0.0.1:{here.plan.port}\r\nConnection: close\r\n"
        writer.write(f"GET /metrics HTTP/1.1\r\n{head}Authorization: Bearer {here.metrics_token}\r\n\r\n".encode())
        return (await asyncio.wait_for(reader.readline(), 5)).split()[1:2] == [b"200"]
    except (OSError, TimeoutError):
        return False
    finally:
        writer.close()


async def _supervise(here: Installation) -> None:
    """Start an embedded server again when it died."""
    while not here.stop.is_set():
        for server in (here.postgres, here.redis):
            if server is not None and not server.running:
                await asyncio.to_thread(server.start)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(here.stop.wait(), 0.5)


async def _stop(here: Installation) -> None:
    """Terminals first, so that nothing knocks on a closed door; servers last."""
    here.stop.set()
    for child in reversed(here.children):
        child.cancel()
    await asyncio.gather(*here.children, return_exceptions=True)
    for server in (here.redis, here.postgres):
        if server is not None:
            await asyncio.to_thread(server.stop)


def _facts(here: Installation) -> dict[str, Any]:
    url = here.public_url
    return {
        "url": url,
        "graphql_url": f"{url}/graphql",
        "ws_url": f"{url.replace('http', 'ws', 1)}/graphql",
        "device_url": url,
        "enrollment_url": here.tenant["enrollment_url"],
        "enrollment_host": here.tenant["enrollment_host"],
        "dashboard_url": f"{url}/dashboard/",
        "docs_url": f"{url}/docs/",
        "playground_url": f"{url}/playground",
        "metrics_url": f"{url}/metrics",
        "metrics_token": here.metrics_token,
        "tenant_id": here.tenant["tenant_id"],
        "api_key": here.tenant["api_key"],
        "database_url": here.owner_url,
        "redis_url": here.redis_url,
        "pid": os.getpid(),
    }


def _say(facts: dict[str, Any], console: Console | None) -> None:
    shown = {
        "GraphQL": facts["graphql_url"],
        "Live feed": facts["ws_url"],
        "Playground": facts["playground_url"],
        "Dashboard": facts["dashboard_url"],
        "Terminals": facts["enrollment_url"],
        "API key": facts["api_key"],
        "Tenant": facts["tenant_id"],
    }
    if console is None:
        for name, value in shown.items():
            print(f"{name + ':':<12}{value}", flush=True)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in shown.items():
        table.add_row(f"[bold]{name}[/]", value)
    console.print(Panel(table, title="PunchConnect is ready", subtitle="Ctrl-C stops it; data stay", expand=False))


def _write_private(path: Path, content: bytes) -> None:
    """Whole or not at all, and for nobody else to read."""
    draft = path.with_suffix(".new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
