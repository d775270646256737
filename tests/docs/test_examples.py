"""Every example that can run is run, against `punchconnect dev` as a newcomer would start it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from urllib.request import Request, urlopen

import asyncpg
import pytest
from graphql import OperationDefinitionNode, OperationType, parse, validate

from app import ids
from schema import schema
from tests.docs.pages import PAGES, ROOT, Block, blocks, name
from tests.docs.quickstart import PAGE as QUICKSTART
from tests.server import listen

READY_WITHIN: Final = 60
PAGE_WITHIN: Final = 60
BLOCK_WITHIN: Final = 30
LANGUAGES: Final = {"sh", "python", "graphql", "sql", "json", "console", "text"}
#: Shown from files that have tests of their own.
SHOWN: Final = {"py", "js", "bash", "php", "ruby"}
#: What examples name as their own, and other programs may have here.
PORTS: Final = ("8090", "9000")
REFERENCE: Final = ROOT / "docs" / "reference" / "graphql.md"
#: For the operations that need some.
VARIABLES: Final = {"serial": "VIRT000001"}

RUNNABLE: Final = [page for page in PAGES if blocks(page, "sh", "python")]


@pytest.fixture(scope="session")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder as after `make dev` in the repository."""
    folder = tmp_path_factory.mktemp("newcomer")
    (folder / "frontend-examples").symlink_to(ROOT / "frontend-examples")
    listening = listen()
    port = listening.getsockname()[1]
    listening.close()
    env = {key: value for key, value in os.environ.items() if not key.startswith("PUNCHCONNECT_")}
    with (folder / "dev.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "dev", "--port", str(port)],
            cwd=folder,
            env=env,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + READY_WITHIN
        while not (folder / ".punchconnect" / "dev.json").exists():
            assert process.poll() is None, (folder / "dev.log").read_text()[-2000:]
            assert time.monotonic() < deadline, "dev is not ready"
            time.sleep(0.1)
        facts = _facts(folder)
        # A reader is not as quick as we are: by now somebody has punched.
        while len(_ask(facts, "{ punches(first: 2) { nodes { id } } }", {})["data"]["punches"]["nodes"]) < 2:
            assert time.monotonic() < deadline, "nobody punches"
            time.sleep(0.1)
        yield folder
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def test_every_block_says_what_it_is() -> None:
    strange = [block.place for page in PAGES for block in blocks(page) if block.language not in LANGUAGES | SHOWN]

    assert strange == []


def test_the_readme_goes_all_the_way() -> None:
    assert [block.until for block in blocks(ROOT / "README.md", "sh")] == [None, "Open", None, "punch.created", None]


@pytest.mark.parametrize("page", RUNNABLE, ids=name)
def test_the_commands_on_a_page_do_what_it_says(page: Path, dev: Path, tmp_path: Path) -> None:
    for program in ("bash", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"the examples need {program}")

    shown = _run(_script(blocks(page, "sh", "python"), tmp_path), dev, tmp_path)

    assert '"errors"' not in shown
    assert not re.search(r'"userErrors": ?\[\{', shown)
    if page == ROOT / "README.md":
        assert len(re.findall(r'"localTime":"[^"]+","direction":"(?:CHECK|BREAK)_', shown)) == 2
        assert len(re.findall(r"^whsec_[A-Za-z0-9+/]{43}=$", shown, re.MULTILINE)) == 1
        assert shown.count("OK: 1") == 2
    if page == QUICKSTART:
        assert len(re.findall(r'"localTime":"[^"]+","direction":"(?:CHECK|BREAK)_', shown)) == 2
        assert "OK: 1" in shown
        assert '"pin":"0099"' in shown
        assert "punch.created" in shown


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "graphql")], ids=name)
def test_the_documents_on_a_page_fit_the_schema_and_run(page: Path, dev: Path) -> None:
    facts = _facts(dev)
    for block in blocks(page, "graphql"):
        document = parse(block.text)
        assert validate(schema._schema, document) == [], block.place
        [operation] = [part for part in document.definitions if isinstance(part, OperationDefinitionNode)]
        # The reference asks for everything by variables that only a reader can fill in.
        if operation.operation is OperationType.QUERY and not (page == REFERENCE and operation.variable_definitions):
            wanted = {variable.variable.name.value for variable in operation.variable_definitions or ()}
            variables = {key: value for key, value in VARIABLES.items() if key in wanted}
            answer = _ask(facts, block.text, variables)
            assert "errors" not in answer, (block.place, answer)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sql")], ids=name)
async def test_the_statements_on_a_page_run_as_the_owner(page: Path, dev: Path) -> None:
    facts = _facts(dev)
    tenant_id = str(ids.read("ten", facts["tenant_id"]))
    connection = await asyncpg.connect(facts["database_url"])
    try:
        for block in blocks(page, "sql"):
            text = re.sub(r"^(BEGIN|ROLLBACK);$", "", block.text, flags=re.MULTILINE)
            text = text.replace("00000000-0000-0000-0000-000000000000", tenant_id)
            await connection.execute(f"BEGIN; {text}")
            await connection.execute("ROLLBACK")
    finally:
        await connection.close()


async def test_the_statements_that_look_for_a_punch_find_one(dev: Path) -> None:
    facts = _facts(dev)
    [text] = [block.text for block in blocks(ROOT / "docs" / "operations.md", "sql") if "FROM punches" in block.text]
    *_, role = re.findall(r"SET LOCAL ROLE \w+;", text)
    [select] = re.findall(r"SELECT [^;]* FROM punches [^;]*;", text)
    tenant_id = str(ids.read("ten", facts["tenant_id"]))
    connection = await asyncpg.connect(facts["database_url"])
    rows: list[Any] = []
    try:
        async with asyncio.timeout(BLOCK_WITHIN):
            while not rows:
                async with connection.transaction():
                    await connection.execute(role)
                    await connection.execute(f"SELECT set_config('app.tenant_id', '{tenant_id}', true)")
                    rows = await connection.fetch(select.replace("pin = '0007'", "pin <> ''"))
    finally:
        await connection.close()

    assert len(rows) <= 5
    assert list(rows[0].keys()) == ["id", "local_time", "punched_at", "received_at", "convert_from"]


def test_what_is_shown_as_json_is_json() -> None:
    for page in PAGES:
        for block in blocks(page, "json"):
            json.loads(block.text)


def _script(found: list[Block], folder: Path) -> str:
    """One shell for all blocks of a page, as for somebody who reads from top to bottom."""
    ports = {}
    for port in PORTS:
        with listen() as listening:
            ports[port] = str(listening.getsockname()[1])
    lines = ["set -eu"]
    for number, block in enumerate(found):
        text = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: ports[match[0]], block.text)
        if block.language == "python":
            program = folder / f"{number}.py"
            program.write_text(text)
            text = f"python3 {shlex.quote(str(program))}\n"
        lines.append(f"echo '# {block.place}'")
        lines.append(text if block.until is None else _until(text, block.until, folder / f"{number}.out"))
    return "\n".join(lines)


def _until(text: str, awaited: str, out: Path) -> str:
    """Run it beside the shell, in a group of its own, until it printed `awaited`; then end it."""
    output, word = shlex.quote(str(out)), shlex.quote(awaited)
    return (
        f"set -m\n(\n{text}) >{output} 2>&1 &\nset +m\n"
        f"for _ in $(seq {BLOCK_WITHIN * 10}); do\n"
        f"  if grep -qF -- {word} {output} || ! kill -0 $! 2>/dev/null; then break; fi\n  sleep 0.1\ndone\n"
        f"kill -- -$! 2>/dev/null || true\nwait $! 2>/dev/null || true\ncat {output}\ngrep -qF -- {word} {output}\n"
    )


def _run(script: str, folder: Path, tmp_path: Path) -> str:
    # The reader's python3 is the one that has our dependencies.
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    log = tmp_path / "shown"
    with log.open("wb") as output:
        done = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=env, stdout=output, stderr=output, timeout=PAGE_WITHIN, check=False
        )
    shown = log.read_text()
    assert done.returncode == 0, shown[-3000:]
    return shown


def _facts(dev: Path) -> dict[str, str]:
    facts: dict[str, str] = json.loads((dev / ".punchconnect" / "dev.json").read_bytes())
    return facts


def _ask(facts: dict[str, str], query: str, variables: dict[str, str]) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {facts['api_key']}", "Content-Type": "application/json"}
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = Request(facts["graphql_url"], body, headers)  # noqa: S310  our own server
    with urlopen(request, timeout=BLOCK_WITHIN) as answer:  # noqa: S310
        read: dict[str, Any] = json.loads(answer.read())
    return read
