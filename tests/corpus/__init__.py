"""Captured requests with what they mean, for every test that feeds bytes to a parser or to a running server."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CORPUS = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as it was on the wire, and what its `.expected.json` says of it."""

    id: str
    dialect: str  # attendance, security
    method: str
    path: str
    query: bytes
    headers: dict[str, str]  # names in lower case
    body: bytes
    expected: dict[str, Any]
    response: bytes | None  # a server's answer that the terminal took, head and body

    @property
    def expect(self) -> dict[str, Any]:
        """What the request means."""
        meaning: dict[str, Any] = self.expected["expect"]
        return meaning

    @property
    def path_tail(self) -> str:
        """What follows `/iclock/`."""
        return self.path.removeprefix("/iclock/")


def read_sample(path: Path) -> Sample:
    """The sample in a `.http` file and its neighbours."""
    head, _, body = path.read_bytes().partition(b"\r\n\r\n")
    request_line, *lines = head.decode().split("\r\n")
    method, target, _ = request_line.split(" ")
    location, _, query = target.partition("?")
    expected = json.loads(path.with_suffix(".expected.json").read_text("utf-8"))
    response = path.with_suffix(".response.http")
    return Sample(
        id=expected["id"],
        dialect=expected["dialect"],
        method=method,
        path=location,
        query=query.encode(),
        headers={name.lower(): value for name, value in (line.split(": ", 1) for line in lines)},
        body=body,
        expected=expected,
        response=response.read_bytes() if response.exists() else None,
    )


SAMPLES = [read_sample(path) for path in sorted(CORPUS.glob("*.http")) if not path.name.endswith(".response.http")]
ATTENDANCE = [sample for sample in SAMPLES if sample.dialect == "attendance"]
SECURITY = [sample for sample in SAMPLES if sample.dialect == "security"]
