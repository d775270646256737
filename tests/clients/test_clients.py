"""Suites and client libraries that others wrote, against a running server.

What is installed is pinned by lock files and lies beside the scripts. Those in JavaScript need Node.js and npm; each in
Python has an environment of its own, for they do not agree on a version of graphql-core.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.database import Database
from app.domain import tenants
from app.vault import Vault
from schema import sdl
from tests.schema.world import make_world
from tests.server import Server

HERE = Path(__file__).parent
PATIENCE = 300


@dataclass(frozen=True, slots=True)
class Running:
    """A server, and a key that may do everything in a tenant with one of everything."""

    url: str
    key: str


@pytest.fixture
async def running(database_url: str, db: Database, vault: Vault) -> AsyncIterator[Running]:
    async with db.across("operate") as connection:
        created = await tenants.create(connection, vault, "Clients")
    await make_world(db, vault, created.tenant.id)
    async with Server(database_url) as server:
        yield Running(f"http://127.0.0.1:{server.port}/graphql", created.api_key)


async def run(*command: str, folder: Path = HERE, told: dict[str, str] | None = None) -> str:
    """What a command printed, once it has ended well; `told` is added to its environment."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env=os.environ | (told or {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def install(folder: Path) -> None:
    """What the lock file names, unless it is there. One test at a time."""
    if shutil.which("npm") is None:
        pytest.skip("Node.js with npm is needed: on Debian and Ubuntu, apt install nodejs npm")
    with (folder / "package-lock.json").open() as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        installed = folder / "node_modules" / ".package-lock.json"
        if not installed.exists() or installed.stat().st_mtime < os.fstat(lock.fileno()).st_mtime:
            await run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", folder=folder)
            installed.touch()


OFFLINE = ("NewConnectionError", "Temporary failure in name resolution", "ConnectTimeoutError", "ProxyError")


async def python(name: str) -> str:
    """The interpreter of an environment with what `python/<name>.txt` pins, made unless it is there."""
    folder = HERE / "python"
    home = folder / ".venv" / name
    with (folder / f"{name}.txt").open() as lock:
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        made = home / "made"
        if not made.exists() or made.stat().st_mtime < os.fstat(lock.fileno()).st_mtime:
            await run(sys.executable, "-m", "venv", "--clear", str(home))
            quiet = ("--quiet", "--disable-pip-version-check", "--require-hashes")
            try:
                await run(str(home / "bin" / "python"), "-m", "pip", "install", *quiet, "-r", lock.name)
            except AssertionError as exc:
                if any(sign in str(exc) for sign in OFFLINE):
                    pytest.skip(f"{name} has to be installed, and no package index can be reached")
                raise
            made.touch()
    return str(home / "bin" / "python")


async def test_the_graphql_over_http_audit_passes_whole(running: Running) -> None:
    await install(HERE)

    said = await run("node", "audit.mjs", running.url, running.key)

    assert said.strip().splitlines()[-1] == "61 of 61 ok"


@pytest.mark.parametrize("client", ["apollo", "urql"])
async def test_a_javascript_client_queries_changes_pages_and_follows(running: Running, client: str) -> None:
    await install(HERE)

    said = await run("node", f"{client}.mjs", running.url, running.key)

    assert said.strip() == f"{client} ok"


@pytest.mark.full
async def test_relays_compiler_accepts_the_schema_and_its_documents(tmp_path: Path) -> None:
    folder = HERE / "generators"
    await install(folder)
    (tmp_path / "schema.graphql").write_text(sdl())
    source = tmp_path / "src"
    source.mkdir()
    (source / "page.js").write_text((folder / "relay.js").read_text())
    (tmp_path / "relay.config.json").write_text(
        '{"src": "src", "schema": "schema.graphql", "language": "javascript", "eagerEsModules": true}'
    )
    compiler = str(folder / "node_modules" / ".bin" / "relay-compiler")

    await run(compiler, "relay.config.json", folder=tmp_path)

    assert {path.name for path in source.rglob("*.graphql.js")} == {
        "pagePunches_query.graphql.js",
        "pageQuery.graphql.js",
        "PunchesPaginationQuery.graphql.js",
    }
    await run(compiler, "--validate", "relay.config.json", folder=tmp_path)


@pytest.mark.full
async def test_graphql_codegen_writes_types_that_compile(running: Running, tmp_path: Path) -> None:
    folder = HERE / "generators"
    await install(folder)
    written = tmp_path / "types.ts"
    told = {"GENERATOR_URL": running.url, "GENERATOR_KEY": running.key, "GENERATOR_OUT": str(written)}

    await run("node_modules/.bin/graphql-codegen", "--config", "codegen.mjs", folder=folder, told=told)
    await run("node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", str(written), folder=folder)

    assert "export type PunchesQuery = " in written.read_text()


@pytest.mark.full
async def test_gql_queries_changes_pages_and_follows(running: Running) -> None:
    said = await run(await python("gql"), str(HERE / "python" / "gql_client.py"), running.url, running.key)

    assert said.strip() == "gql ok"


@pytest.mark.full
async def test_the_client_that_ariadne_codegen_writes_queries_changes_and_follows(
    running: Running, tmp_path: Path
) -> None:
    interpreter = await python("codegen")
    (tmp_path / "schema.graphql").write_text(sdl())
    shutil.copy(HERE / "generators" / "documents.graphql", tmp_path)
    for name in ("codegen.toml", "codegen_client.py"):
        shutil.copy(HERE / "python" / name, tmp_path)

    await run(str(Path(interpreter).parent / "ariadne-codegen"), "--config", "codegen.toml", folder=tmp_path)
    said = await run(interpreter, "codegen_client.py", running.url, running.key, folder=tmp_path)

    assert said.strip() == "ariadne-codegen ok"


@pytest.mark.full
async def test_schemathesis_finds_nothing_with_either_tenants_key(
    database_url: str, db: Database, vault: Vault, tmp_path: Path
) -> None:
    tool = Path(await python("schemathesis")).parent / "schemathesis"
    keys = []
    for name in ("One", "Other"):
        async with db.across("operate") as connection:
            created = await tenants.create(connection, vault, name)
        keys.append(created.api_key)
    await make_world(db, vault, created.tenant.id)
    told = {"SCHEMATHESIS_HOOKS": str(HERE / "python" / "schemathesis_hooks.py")}
    # It does not know of inputs that take exactly one of their fields, so there it cannot tell what must be accepted.
    oneof = "Mutation.deviceCommandSend"
    async with Server(database_url, api_points=1_000_000, api_restore=1_000_000) as server:
        url = f"http://127.0.0.1:{server.port}/graphql"
        for key in keys:
            for which, without in (("--exclude-name", ""), ("--include-name", ",positive_data_acceptance")):
                checks = ("--checks", "all", "--exclude-checks", f"not_a_server_error{without}")
                asked = ("--max-examples", "3", "--seed", "1", which, oneof, "--header", f"Authorization: Bearer {key}")
                said = await run(str(tool), "run", url, *checks, *asked, folder=tmp_path, told=told)

                assert re.search(r"\b([1-9]\d*) generated, \1 passed\b", said), said
