"""Serves this folder to this machine: `python3 serve.py [port]`. Nothing to install, Python 3.9 or newer.

Given the file that `punchconnect dev` writes, it also prints an address that connects by itself:

    python3 serve.py 8090 --dev ../../.punchconnect/dev.json

URL and key stand behind the `#`, a part of an address that browsers keep to themselves: no server sees it, this one
included.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlencode


class Page(SimpleHTTPRequestHandler):
    """The files of this folder, never from a cache."""

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def list_directory(self, path: object) -> None:
        self.send_error(404)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Serve the live feed page on this machine.")
    parser.add_argument("port", type=int, nargs="?", default=8090)
    parser.add_argument("--dev", type=Path, metavar="FILE", help="dev.json of a running `punchconnect dev`")
    given = parser.parse_args()
    hash_part = ""
    if given.dev:
        try:
            facts = json.loads(given.dev.read_bytes())
        except OSError as problem:
            sys.exit(f"{given.dev} cannot be read ({problem.strerror}): is `make dev` running?")
        hash_part = "#" + urlencode({"url": facts["ws_url"], "key": facts["api_key"]})
    handler = partial(Page, directory=str(Path(__file__).resolve().parent))
    with ThreadingHTTPServer(("127.0.0.1", given.port), handler) as server:
        print(f"Open http://127.0.0.1:{given.port}/{hash_part}", flush=True)
        with suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
