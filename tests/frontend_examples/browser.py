"""Chromium without a window, driven over its debugging socket: open a page, ask it something, take its picture."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import orjson
from websockets.asyncio.client import ClientConnection, connect

PATIENCE: Final = 30
#: What the browser says of a question whose page is gone.
GONE: Final = ("navigated", "context was destroyed", "Cannot find context")
NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
FLAGS: Final = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


def find() -> str | None:
    """A browser on this machine, installed if that is ours to do; None when there is none to be had."""
    if (found := _installed()) is not None:
        return found
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return None
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "chromium"]):
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["apt-get", *command], env=quiet, capture_output=True, timeout=300, check=False)
    return _installed()


def _installed() -> str | None:
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Navigated(RuntimeError):
    """The page that was asked went away meanwhile: another one comes."""


class Page:
    """One tab."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._numbers = itertools.count(1)
        #: What went wrong in the page: exceptions, and errors that it wrote to the console.
        self.problems: list[str] = []

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result. One at a time."""
        number = next(self._numbers)
        await self._socket.send(orjson.dumps({"id": number, "method": method, "params": parameters}).decode())
        async with asyncio.timeout(PATIENCE):
            while True:
                message = orjson.loads(await self._socket.recv())
                self._note(message)
                if message.get("id") == number:
                    if "error" in message:
                        text = str(message["error"]["message"])
                        kind = Navigated if any(word in text for word in GONE) else RuntimeError
                        raise kind(f"{method}: {text}")
                    result: dict[str, Any] = message["result"]
                    return result

    async def ask(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        answer = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    async def until(self, expression: str, within: float = PATIENCE) -> None:
        """Wait until the expression is true; TimeoutError with what the page shows otherwise."""
        deadline = time.monotonic() + within
        while not await self._holds(expression):
            if time.monotonic() > deadline:
                raise TimeoutError(f"Not within {within} s: {expression}. It shows: {await self.text()}")
            await asyncio.sleep(0.05)

    async def _holds(self, expression: str) -> bool:
        try:
            return bool(await self.ask(expression))
        except Navigated:
            return False

    async def open(self, url: str) -> None:
        """Go there, by way of nowhere: with another `#` alone nothing would be loaded."""
        await self.do("Page.navigate", url="about:blank")
        await self.do("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    @asynccontextmanager
    async def beside(self) -> AsyncIterator[Page]:
        """One more tab of the same browser."""
        port = self._socket.remote_address[1]
        target = (await self.do("Target.createTarget", url="about:blank"))["targetId"]
        async with _tab(f"ws://127.0.0.1:{port}/devtools/page/{target}") as page:
            yield page

    async def text(self) -> str:
        return str(await self.ask("document.body.innerText"))

    async def picture(
        self, path: Path, *, width: int = 1100, height: int = 800, dark: bool = False, whole: bool = False
    ) -> None:
        """A PNG of what can be seen, or of the whole page."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.do("Emulation.setEmulatedMedia", features=scheme)
        await self.do(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        await asyncio.sleep(0.3)  # one repaint
        wanted: dict[str, Any] = {}
        if whole:
            size = (await self.do("Page.getLayoutMetrics"))["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": width, "height": max(size["height"], height), "scale": 1}
            wanted = {"captureBeyondViewport": True, "clip": clip}
        picture = await self.do("Page.captureScreenshot", format="png", **wanted)
        await asyncio.to_thread(path.write_bytes, base64.b64decode(picture["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        details = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))
        elif message.get("method") == "Runtime.consoleAPICalled" and details["type"] == "error":
            self.problems.append(str(details["args"]))


@asynccontextmanager
async def browsing(executable: str, profile: Path) -> AsyncIterator[Page]:
    """A fresh browser with one tab."""
    profile.mkdir(parents=True)
    log = profile / "stderr.log"
    with log.open("wb") as stderr:
        browser = await asyncio.create_subprocess_exec(
            executable, *FLAGS, f"--user-data-dir={profile}", "about:blank", stdout=stderr, stderr=stderr
        )
    try:
        port_file = profile / "DevToolsActivePort"
        async with asyncio.timeout(PATIENCE):
            while not port_file.exists() or len(port_file.read_text().split()) < 2:
                if browser.returncode is not None:
                    raise RuntimeError(f"The browser ended with {browser.returncode}: {log.read_text()[-500:]}")
                await asyncio.sleep(0.05)
        port, path = port_file.read_text().split()
        target = await _first_tab(f"ws://127.0.0.1:{port}{path}")
        async with _tab(f"ws://127.0.0.1:{port}/devtools/page/{target}") as page:
            yield page
    finally:
        if browser.returncode is None:
            browser.terminate()
        try:
            await asyncio.wait_for(browser.wait(), 10)
        except TimeoutError:
            browser.kill()
            await browser.wait()


@asynccontextmanager
async def _tab(url: str) -> AsyncIterator[Page]:
    async with connect(url, max_size=None, ping_interval=None) as socket:
        page = Page(socket)
        for domain in ("Page", "Runtime"):
            await page.do(f"{domain}.enable")
        yield page


async def _first_tab(browser_url: str) -> str:
    async with connect(browser_url, max_size=None, ping_interval=None) as socket:
        found = await Page(socket).do("Target.getTargets")
    target: str = next(target["targetId"] for target in found["targetInfos"] if target["type"] == "page")
    return target
