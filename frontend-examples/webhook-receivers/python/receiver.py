"""A webhook receiver in one file, with nothing but Python's standard library (3.9 or newer).

    WEBHOOK_SECRET=whsec_… PORT=9000 python3 receiver.py

It checks both signatures, takes each event once, answers at once and does the work afterwards. One signature is enough
in practice: webhook-signature, because it covers the time too, so that a recorded request cannot be sent again later.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import queue
import re
import sys
import threading
import time
from collections import OrderedDict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_SECONDS = 300
LARGEST_BODY = 1024 * 1024
REMEMBERED = 10_000

# During a rotation the variable may hold two secrets, separated by a comma.
SECRETS = [secret.strip() for secret in os.environ.get("WEBHOOK_SECRET", "").split(",") if secret.strip()]


class Refused(Exception):
    """A request that is not from PunchConnect, or not as it was sent: the status and the reason."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def verify(headers, body: bytes) -> None:
    """Check both signatures over the raw body, before anything reads it. `headers` is a mapping that ignores case."""
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature", "x-punchconnect-signature"):
        if not headers.get(name):
            raise Refused(400, f"the header {name} is missing")
    event_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
    if not re.fullmatch("[0-9]{1,12}", timestamp):
        raise Refused(400, "webhook-timestamp is not a number")
    if abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        raise Refused(401, "signed too long ago, or one of the two clocks is wrong")

    # Standard Webhooks: the key is what the base64 after `whsec_` stands for. Any of the listed signatures may match.
    signed = f"{event_id}.{timestamp}.".encode() + body
    keys = [base64.b64decode(secret[len("whsec_") :]) for secret in SECRETS]
    expected = ["v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode() for key in keys]
    if not matches(expected, headers["webhook-signature"].split(" ")):
        raise Refused(401, "webhook-signature does not match")

    # X-PunchConnect-Signature: the key is the secret's text, `whsec_` included. While a rotation lasts it is made with
    # the previous secret; who has only the new one relies on the check above.
    if headers.get("x-punchconnect-signature-key") != "previous" or len(SECRETS) > 1:
        expected = [hmac.new(secret.encode(), body, hashlib.sha256).hexdigest() for secret in SECRETS]
        if not matches(expected, [headers["x-punchconnect-signature"]]):
            raise Refused(401, "x-punchconnect-signature does not match")


def matches(expected: list[str], given: list[str]) -> bool:
    return any(hmac.compare_digest(one.encode(), other.encode()) for one in expected for other in given)


class Events:
    """Every event once. A real receiver has a unique column for `webhook-id`, in the transaction that does the work."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self.waiting: queue.Queue[dict] = queue.Queue()

    def take(self, event_id: str, event: dict) -> bool:
        """Queue the event; False when it was here before."""
        with self._lock:
            if event_id in self._seen:
                return False
            self._seen[event_id] = None
            if len(self._seen) > REMEMBERED:
                self._seen.popitem(last=False)
        self.waiting.put(event)
        return True


def work(events: Events) -> None:
    """What the business does with an event: here, a line on the screen."""
    while True:
        event = events.waiting.get()
        print(describe(event), flush=True)


def describe(event: dict) -> str:
    if not event["type"].startswith("punch."):
        return f"{event['type']}  {event['id']}"
    punch = event["data"]
    who = (punch.get("employee") or {}).get("name") or "unknown"
    where = punch["device"].get("name") or punch["device"]["serial_number"]
    when = f"{punch['local_time']} {punch['time_zone']}"
    return f"{event['type']}  {when}  {punch['direction']}  {who} (PIN {punch['pin']})  {where}"


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keeps connections open between events
    timeout = 30
    events = Events()

    def do_POST(self) -> None:
        try:
            body = self.read_body()
            verify(self.headers, body)
            new = self.events.take(self.headers["webhook-id"], json.loads(body))
        except Refused as refused:
            self.answer(refused.status, str(refused))
        except ValueError:
            self.answer(400, "the body is not JSON")
        else:
            # A repeat is a success too: PunchConnect only needs to know that it can stop sending.
            self.answer(200, "ok" if new else "duplicate")

    def read_body(self) -> bytes:
        length = self.headers.get("content-length", "")
        if not re.fullmatch("[0-9]{1,12}", length):
            self.close_connection = True
            raise Refused(411, "content-length is missing")
        if int(length) > LARGEST_BODY:
            self.close_connection = True
            raise Refused(413, "the body is too large")
        return self.rfile.read(int(length))

    def do_GET(self) -> None:
        self.answer(405, "webhooks are sent with POST")

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(text.encode())))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """One line per event is enough."""


def main() -> None:
    if not SECRETS or not all(re.fullmatch(r"whsec_[A-Za-z0-9+/]+={0,2}", secret) for secret in SECRETS):
        print("Set WEBHOOK_SECRET to the secret that webhookEndpointCreate answered with: whsec_…", file=sys.stderr)
        sys.exit(2)
    server = ThreadingHTTPServer((os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "9000"))), Receiver)
    threading.Thread(target=work, args=(Receiver.events,), daemon=True).start()
    print(f"listening on http://{server.server_address[0]}:{server.server_address[1]}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
    finally:
        server.server_close()


if __name__ == "__main__":
    main()
