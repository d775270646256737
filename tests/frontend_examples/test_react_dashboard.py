"""The example in React: it builds from its lock file, and keeps its promises in a real browser."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from app.database import Database
from app.domain import employees, roster
from app.domain.roster import Person
from app.embedded import EmbeddedRedis
from app.vault import Vault
from tests.app.web.test_dashboard import Office, opening
from tests.app.web.test_screens import faults
from tests.clients.test_clients import install, run
from tests.frontend_examples import browser
from tests.server import Server, listen

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "frontend-examples" / "react-dashboard"
ROWS = "[...document.querySelectorAll('#punches th')].map(cell => cell.innerText)"
LIVE = "document.getElementById('connection')?.dataset.connection === 'live'"
#: Loses the answers to the first two mutations on their way, and remembers what the third one says.
LOSING = """
const real = window.fetch; let lost = 0; window.answers = [];
window.fetch = async (url, init) => {
  const answer = await real(url, init);
  if (!init?.body?.includes('mutation')) return answer;
  window.answers.push(await answer.clone().json());
  if (lost++ < 2) throw new TypeError('lost on the way');
  return answer;
};
"""


def test_the_lock_names_no_place_and_no_purse() -> None:
    lock = (FOLDER / "package-lock.json").read_text()

    assert '"resolved"' not in lock
    assert '"funding"' not in lock
    assert "omit-lockfile-registry-resolved=true" in (FOLDER / ".npmrc").read_text().splitlines()
    assert all("integrity" in each for name, each in orjson.loads(lock)["packages"].items() if name)


def test_the_readme_is_a_page_and_has_one_command() -> None:
    readme = (FOLDER / "README.md").read_text()

    assert len(readme.splitlines()) <= 45
    assert readme.count("\n$ ") == 1


@asynccontextmanager
async def _serving(office: Office) -> AsyncIterator[str]:
    """`npm run preview`; where the page is."""
    listening = listen()
    port = listening.getsockname()[1]
    listening.close()
    told = {"PUNCHCONNECT_URL": f"http://127.0.0.1:{office.server.port}", "PUNCHCONNECT_KEY": office.tenant.api_key}
    process = await asyncio.create_subprocess_exec(
        "node_modules/.bin/vite", "preview", "--host", "127.0.0.1", "--port", str(port), "--strictPort",
        cwd=FOLDER, env=os.environ | told, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    break
                except OSError:
                    assert process.returncode is None
                    await asyncio.sleep(0.1)
        yield f"http://127.0.0.1:{port}/"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        await process.wait()


async def _name(db: Database, office: Office, pin: str) -> str | None:
    tenant_id = office.tenant.tenant.id
    async with db.read(tenant_id) as session:
        return (await employees.by_pins(session, tenant_id, [pin]))[pin].name


@pytest.mark.full
async def test_it_builds_and_misses_nothing_and_renames_once(
    database_url: str, redis_server: EmbeddedRedis, db: Database, vault: Vault, tmp_path: Path
) -> None:
    chromium = browser.find()
    if chromium is None or shutil.which("npm") is None:
        pytest.skip("Chromium and npm are needed: on Debian, apt-get install chromium nodejs npm")
    await install(FOLDER)
    shutil.rmtree(FOLDER / "dist", ignore_errors=True)
    await run("npm", "run", "build", folder=FOLDER)
    built = "".join(path.read_text() for path in (FOLDER / "dist").rglob("*.js"))

    async with (
        opening(database_url, redis_server.url, db, vault) as office,
        _serving(office) as home,
        browser.browsing(chromium, tmp_path / "profile") as page,
    ):
        async with db.write(office.tenant.tenant.id) as session:
            await roster.upsert(session, office.tenant.tenant.id, Person("102", {"name": "Brahim"}))
        await office.punch("101")
        await page.open(home)
        await page.until(LIVE)
        await page.until("document.querySelectorAll('#punches tr').length === 1")
        await office.punch("102")
        await page.until("document.querySelectorAll('#punches tr').length === 2")
        await page.until("document.querySelectorAll('.people li').length === 2")
        serious = await faults(page)
        await page.picture(tmp_path / "wide.png")
        await page.picture(tmp_path / "narrow.png", width=375, dark=True)

        # A rename while nobody answers shows at once, and is there in the end; so are the punches of meanwhile.
        await office.server.__aexit__(None, None, None)
        await page.until(f"!({LIVE})")
        await _rename(page, "101", "Zoë Renamed")
        await page.until("document.querySelector('[data-pin=\"101\"]').dataset.saving === 'true'")
        meanwhile = await page.ask(ROWS)
        unsaved = await _name(db, office, "101")
        async with Server(database_url, redis_url=redis_server.url, port=office.server.port):
            await office.punch("103")
            await page.until("document.querySelectorAll('#punches tr').length === 3")
            await page.until("document.querySelector('[data-pin=\"101\"]').dataset.saving === 'false'")
            shown = await page.ask(ROWS)
            saved = await _name(db, office, "101")

            # Two answers are lost; the third try is told what the first one did.
            await page.ask(f"{LOSING} null")
            await _rename(page, "102", "Brahim Twice")
            await page.until("window.answers.length === 3")
            await page.until("document.querySelector('[data-pin=\"102\"]').dataset.saving === 'false'")
            replayed = await page.ask("window.answers.map(a => a.data.employeeUpsert.idempotentReplay)")

            # A refusal takes the name back and says why.
            await _rename(page, "102", "x" * 201)
            await page.until("document.querySelector('[data-pin=\"102\"] [role=alert]') !== null")
            told = await page.ask("document.querySelector('[data-pin=\"102\"] [role=alert]').innerText")
            name = await page.ask("document.querySelector('[data-pin=\"102\"] input').value")

    assert office.tenant.api_key not in built
    assert serious == []
    assert meanwhile == ["Brahim", "Zoë Renamed"]
    assert unsaved == "Zoë <b>Çelik</b>"
    assert shown == ["PIN 103", "Brahim", "Zoë Renamed"]
    assert saved == "Zoë Renamed"
    assert replayed == [False, True, True]
    assert "(invalid_input)" in told
    assert name == "Brahim Twice"


async def _rename(page: browser.Page, pin: str, name: str) -> None:
    """As a person does: change the field, press the button."""
    await page.ask(
        f"(() => {{ const row = document.querySelector('[data-pin=\"{pin}\"]'); row.querySelector('input').value = "
        f"'{name}'; row.querySelector('button').click(); }})()"
    )
