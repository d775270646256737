"""What must be true at the end of every journey, whatever happened on the way.

What the terminals were told is compared with what the database holds, what the feed showed and what the receiver got.
A terminal's account is believed: it let go of a record only after a whole answer that began with OK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from app import ids
from app.domain.events import Cursors, webhook_body
from app.simulator import Report
from app.vault import Vault
from protocol import webhook
from tests.bodies import check
from tests.conftest import SECRET_KEY
from tests.database import dicts
from tests.journeys.rig import Customer, Process, Rig, Server
from tests.journeys.subscriber import Subscriber

CURSORS = Cursors(Vault(SECRET_KEY).cursor_key)
PAGE = """
query ($after: String) {
    punches(first: 100, after: $after, orderBy: {field: RECEIVED_AT, direction: ASC}) {
        nodes { id raw }
        pageInfo { hasNextPage endCursor }
    }
}
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """What the database holds of a tenant."""

    #: (serial number, line) of every punch.
    lines: Counter[tuple[str, str]]
    #: The ids of the punches, as outsiders see them, in the order in which they were announced.
    announced: Sequence[str]
    #: Event id -> what has to be sent of it, of punch.created.
    events: dict[str, bytes]
    #: Position -> punch id.
    positions: dict[int, str]


async def stored(rig: Rig, customer: Customer) -> Stored:
    """Look."""
    punches = await dicts(
        rig.db,
        customer.tenant_id,
        "SELECT p.id, d.serial_number, p.raw FROM punches p "
        "JOIN devices d ON d.tenant_id = p.tenant_id AND d.id = p.device_id",
    )
    events = await dicts(
        rig.db,
        customer.tenant_id,
        "SELECT id, position, body FROM events WHERE type = 'punch.created' ORDER BY position",
    )
    announced = [orjson.loads(event["body"])["data"]["id"] for event in events]
    assert Counter(announced) == Counter(ids.show("pun", punch["id"]) for punch in punches)
    return Stored(
        lines=Counter((punch["serial_number"], punch["raw"].decode()) for punch in punches),
        announced=announced,
        events={
            ids.show("evt", event["id"]): webhook_body(
                event["body"].encode(), CURSORS.write(customer.tenant_id, event["position"])
            )
            for event in events
        },
        positions={event["position"]: punch for event, punch in zip(events, announced, strict=True)},
    )


def check_stored(held: Stored, reports: Sequence[Report]) -> None:
    """Every acknowledged line is there exactly once, byte for byte, and nothing else is."""
    accounts = [account for report in reports for account in report.terminals]
    assert [account.last_trouble for account in accounts if account.unacknowledged] == []
    acknowledged = Counter((account.serial, line) for account in accounts for line in account.acknowledged_lines)
    assert set(acknowledged.values()) == {1}  # a terminal holds no line twice
    assert held.lines == acknowledged
    for account in accounts:
        # A request cut short is neither accepted nor refused; its records were sent again until they were accepted.
        assert account.requests == account.accepted + account.refused + account.unknown
        assert account.made == account.acknowledged


async def check_listed(held: Stored, server: Server, customer: Customer) -> None:
    """A query finds every punch once."""
    found: list[dict[str, Any]] = []
    page: dict[str, Any] = {"hasNextPage": True, "endCursor": None}
    while page["hasNextPage"]:
        told = (await server.graphql(customer.api_key, PAGE, after=page["endCursor"]))["punches"]
        found += told["nodes"]
        page = told["pageInfo"]
    assert sorted(punch["id"] for punch in found) == sorted(held.announced)
    assert Counter(punch["raw"] for punch in found) == Counter(line for _, line in held.lines.elements())


def check_seen(held: Stored, subscriber: Subscriber, customer: Customer) -> None:
    """The subscriber saw every punch of its tenant once, in order, and each frame began where it had stopped."""
    assert [punch.id for punch in subscriber.seen] == list(held.announced)
    assert Counter((punch.serial, punch.line) for punch in subscriber.seen) == held.lines
    position = 0
    for frame in subscriber.frames:
        reached = CURSORS.read(customer.tenant_id, frame.cursor)
        passed = [held.positions[place] for place in range(position + 1, reached + 1) if place in held.positions]
        assert frame.previous == frame.held
        assert reached >= position
        assert [punch.id for punch in frame.punches] == passed
        position = reached


def check_received(held: Stored, customer: Customer) -> None:
    """The receiver got each event at least once, always with the same ids and bytes, signed, and nothing else."""
    bodies: dict[str, bytes] = {}
    deliveries: dict[str, str] = {}
    for request in customer.receiver.requests:
        check(request.body)
        webhook.verify(customer.secret, request.headers, request.body, datetime.now(UTC))
        webhook.verify_legacy(customer.secret, request.headers, request.body)
        assert bodies.setdefault(request.event_id, request.body) == request.body
        assert deliveries.setdefault(request.event_id, str(request.delivery)) == str(request.delivery)
        assert request.headers["x-punchconnect-event"] == "punch.created"
        assert request.payload["tenant_id"] == ids.show("ten", customer.tenant_id)
    assert bodies == held.events
    assert len(set(deliveries.values())) == len(deliveries)


def check_logs(processes: Sequence[Process], customers: Sequence[Customer]) -> None:
    """No secret was written down, and no error: what breaks around us is expected to."""
    secrets = {SECRET_KEY, *(word for one in customers for word in (one.api_key, one.token, one.secret))}
    for process in processes:
        said = process.said()
        assert [secret for secret in secrets if secret in said] == []
        assert [line for line in said.splitlines() if '"level":"error"' in line or "Traceback" in line] == []
