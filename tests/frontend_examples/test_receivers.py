"""The example receivers, run as a newcomer would, and sent what our worker sends."""

from __future__ import annotations

import http.client
import json
import os
import queue
import secrets
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from pathlib import Path
from uuid import uuid4

import pytest

from app.domain.addresses import AddressGuard
from protocol import webhook
from workers.outbound import Outbound

EXAMPLES = Path(__file__).parents[2] / "frontend-examples" / "webhook-receivers"
SECRET = webhook.secret_from(bytes(range(32)))
ENDINGS = {"python": "py", "node": "mjs", "php": "php", "ruby": "rb"}
LANGUAGES = list(ENDINGS)
OTHER = webhook.secret_from(bytes(32))
PUNCH = {
    "id": "evt_01jn8q0000e000000000000001",
    "type": "punch.created",
    "timestamp": "2026-03-01T07:00:04.120Z",
    "tenant_id": "ten_01jn8q0000e000000000000001",
    "feed_cursor": "c",
    "data": {
        "id": "pun_01jn8q0000e000000000000001",
        "pin": "0042",
        "device": {"id": "dev_1", "serial_number": "CQZ7231360001", "name": "Front door", "site_id": "sit_1"},
        "employee": {"id": "emp_1", "name": "Zoë Çelik", "external_id": None},
        "punched_at": "2026-03-01T07:00:02Z",
        "local_time": "2026-03-01T08:00:02",
        "time_zone": "Africa/Casablanca",
        "direction": "check_in",
    },
}
BODY = json.dumps(PUNCH, ensure_ascii=False).encode()
LINE = "punch.created  2026-03-01T08:00:02 Africa/Casablanca  check_in  Zoë Çelik (PIN 0042)  Front door"


def command(language: str) -> list[str]:
    """How the example is started. `.ci/run` installs the interpreters; elsewhere a missing one skips its tests."""
    if language == "python":
        return [sys.executable, str(EXAMPLES / "python" / "receiver.py")]
    interpreter = shutil.which(language)
    if interpreter is None:
        pytest.skip(
            f"{language} is not on PATH: its receiver was not tried (frontend-examples/webhook-receivers/install.sh)."
        )
    return [str(interpreter), str(EXAMPLES / language / f"receiver.{ENDINGS[language]}")]


@dataclass(frozen=True)
class Receiver:
    """One running example."""

    port: int
    lines: queue.Queue[str]

    def printed(self) -> str:
        """The next line it prints."""
        return self.lines.get(timeout=20)

    def send(self, headers: dict[str, str], body: bytes = BODY, method: str = "POST") -> tuple[int, str]:
        """Status and text of its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, "/", body=body, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


def free_port() -> int:
    while True:
        port = 20_000 + secrets.randbelow(12_768)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@contextmanager
def running(language: str, secret: str = SECRET) -> Iterator[Receiver]:
    port = free_port()
    environment = {**os.environ, "PORT": str(port), "WEBHOOK_SECRET": secret, "PYTHONUTF8": "1"}
    with subprocess.Popen(command(language), env=environment, stdout=subprocess.PIPE, encoding="utf-8") as process:
        receiver = Receiver(port, queue.Queue())
        assert process.stdout is not None
        output = process.stdout

        def read() -> None:
            for line in output:
                receiver.lines.put(line.rstrip("\n"))

        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert receiver.printed() == f"listening on http://127.0.0.1:{port}/"
            yield receiver
            assert receiver.lines.empty()  # it printed what the test looked at, and nothing else
        finally:
            process.terminate()
            reader.join()


@pytest.fixture(scope="module", params=LANGUAGES)
def receiver(request: pytest.FixtureRequest) -> Iterator[Receiver]:
    with running(request.param) as started:
        yield started


def signed(
    body: bytes = BODY,
    *,
    event_id: str | None = None,
    attempt: int = 1,
    secret: str = SECRET,
    previous: str | None = None,
    age: timedelta = timedelta(0),
) -> dict[str, str]:
    """The headers of an attempt, sent now or `age` ago; a new event unless it is named."""
    return webhook.headers(
        event_id=event_id or f"evt_{uuid4().hex}",
        event_type="punch.created",
        delivery_uuid=uuid4(),
        attempt=attempt,
        timestamp=int((datetime.now(UTC) - age).timestamp()),
        body=body,
        secret=secret,
        previous_secrets=[previous] if previous else [],
    )


def test_a_genuine_punch_is_accepted_and_shown(receiver: Receiver) -> None:
    assert receiver.send(signed()) == (200, "ok")
    assert receiver.printed() == LINE


def test_an_unknown_person_at_a_nameless_device_is_shown_too(receiver: Receiver) -> None:
    data = {**PUNCH["data"], "employee": None, "device": {"serial_number": "CQZ7231360001", "name": None}}  # type: ignore[dict-item]
    body = json.dumps({**PUNCH, "data": data}).encode()

    assert receiver.send(signed(body), body) == (200, "ok")
    assert receiver.printed() == LINE.replace("Zoë Çelik", "unknown").replace("Front door", "CQZ7231360001")


def test_another_type_of_event_is_accepted(receiver: Receiver) -> None:
    body = b'{"id":"evt_1","type":"webhook.test","data":{}}'

    assert receiver.send(signed(body), body) == (200, "ok")
    assert receiver.printed() == "webhook.test  evt_1"


def test_a_retry_is_answered_with_success_and_shown_once(receiver: Receiver) -> None:
    answers = [receiver.send(signed(event_id="evt_again", attempt=attempt)) for attempt in (1, 2, 3)]

    assert answers == [(200, "ok"), (200, "duplicate"), (200, "duplicate")]
    assert receiver.printed() == LINE


def test_the_same_event_many_times_at_once_is_taken_once(receiver: Receiver) -> None:
    headers = signed(event_id="evt_at_once")
    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(lambda _: receiver.send(headers), range(10)))

    assert sorted(answers) == [(200, "duplicate")] * 9 + [(200, "ok")]
    assert receiver.printed() == LINE


def test_a_body_with_one_byte_changed_is_refused(receiver: Receiver) -> None:
    assert receiver.send(signed(), BODY.replace(b"0042", b"0043")) == (401, "webhook-signature does not match")


def test_another_secret_is_refused(receiver: Receiver) -> None:
    assert receiver.send(signed(secret=OTHER)) == (401, "webhook-signature does not match")


@pytest.mark.parametrize(
    ("header", "value", "answer"),
    [
        ("webhook-id", "evt_other", (401, "webhook-signature does not match")),
        ("webhook-signature", "v1,AAAA", (401, "webhook-signature does not match")),
        ("webhook-signature", "v0=abc", (401, "webhook-signature does not match")),
        ("X-PunchConnect-Signature", "00" * 32, (401, "x-punchconnect-signature does not match")),
        ("webhook-timestamp", "soon", (400, "webhook-timestamp is not a number")),
        ("webhook-id", None, (400, "the header webhook-id is missing")),
        ("webhook-timestamp", None, (400, "the header webhook-timestamp is missing")),
        ("webhook-signature", None, (400, "the header webhook-signature is missing")),
        ("X-PunchConnect-Signature", None, (400, "the header x-punchconnect-signature is missing")),
    ],
)
def test_a_changed_or_missing_header_is_refused(
    receiver: Receiver, header: str, value: str | None, answer: tuple[int, str]
) -> None:
    headers = {name: given for name, given in {**signed(), header: value}.items() if given is not None}

    assert receiver.send(headers) == answer


@pytest.mark.parametrize("age", [timedelta(minutes=6), -timedelta(minutes=6)])
def test_a_recorded_request_is_refused_later(receiver: Receiver, age: timedelta) -> None:
    assert receiver.send(signed(age=age)) == (401, "signed too long ago, or one of the two clocks is wrong")


def test_what_is_not_a_webhook_is_refused(receiver: Receiver) -> None:
    assert receiver.send({}, b"", method="GET") == (405, "webhooks are sent with POST")
    assert receiver.send({**signed(), "Content-Length": str(2 << 20)}, b"") == (413, "the body is too large")
    assert receiver.send({**signed(), "Transfer-Encoding": "chunked"}, b"0\r\n\r\n") == (
        411,
        "content-length is missing",
    )
    assert receiver.send(signed(b"{"), b"{") == (400, "the body is not JSON")


async def test_our_worker_delivers_over_one_connection(receiver: Receiver) -> None:
    async with Outbound(AddressGuard([ip_network("127.0.0.0/8")])) as door:
        replies = [await door.post(f"http://127.0.0.1:{receiver.port}/", signed(), BODY) for _ in range(3)]
        sockets = len(door._sockets)

    assert [(reply.delivered, reply.response_body) for reply in replies] == [(True, b"ok")] * 3
    assert sockets == 1
    assert [receiver.printed() for _ in range(3)] == [LINE] * 3


def test_a_signed_sample_is_sent_with_curl(receiver: Receiver) -> None:
    url, environment = f"http://127.0.0.1:{receiver.port}/", {**os.environ, "WEBHOOK_SECRET": SECRET}

    def send(**changes: str) -> tuple[int, str]:
        script = ["sh", str(EXAMPLES / "curl" / "send.sh"), url]
        ran = subprocess.run(
            script, env={**environment, **changes}, capture_output=True, encoding="utf-8", timeout=30, check=False
        )
        return ran.returncode, ran.stdout

    event_id = f"evt_{uuid4().hex}"
    assert send(EVENT_ID=event_id) == (0, "ok\n")
    assert receiver.printed() == f"webhook.test  {event_id}"
    assert send(EVENT_ID=event_id) == (0, "duplicate\n")
    assert send(WEBHOOK_SECRET=OTHER) == (22, "webhook-signature does not match")


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("known", [SECRET, OTHER, f"{SECRET},{OTHER}"])
def test_a_rotation_passes_a_receiver_that_knows_either_secret_or_both(language: str, known: str) -> None:
    with running(language, known) as receiver:
        assert receiver.send(signed(secret=SECRET, previous=OTHER)) == (200, "ok")
        assert receiver.printed() == LINE


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("secret", ["", "plain text", "whsec_"])
def test_without_a_secret_it_does_not_start(language: str, secret: str) -> None:
    run = subprocess.run(
        command(language),
        env={**os.environ, "WEBHOOK_SECRET": secret, "PYTHONUTF8": "1"},
        capture_output=True,
        encoding="utf-8",
        timeout=20,
        check=False,
    )

    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "Set WEBHOOK_SECRET to the secret that webhookEndpointCreate answered with: whsec_…\n"
