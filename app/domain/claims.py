"""Proof of possession on the shared address: whoever can add a user with the claim's PIN at the terminal has it.

Several tenants may claim one serial; the terminal is asked for each one's user, and the first that is there binds it.
A forger who knows the serial may send users too: each upload is a try at every open claim, and tries are few.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from asyncpg import UniqueViolationError

from app.database import Connection
from app.domain import bindings, outbox
from app.domain.devices import Device, DeviceStatus
from app.domain.events import Logged
from app.domain.punches import DeviceSnapshot

WINDOW: Final = timedelta(hours=24)
#: Users of one upload that are looked at. The answer to our question holds one.
MOST_USERS: Final = 100
_DIGITS: Final = 9  # as many as a PIN has on every model


def new_pin() -> str:
    """Without a zero in front, which some terminals drop."""
    return str(secrets.randbelow(9 * 10 ** (_DIGITS - 1)) + 10 ** (_DIGITS - 1))


def begin(device: Device, at: datetime) -> None:
    """Claim the terminal of a device that was just registered."""
    device.claim_pin, device.claim_expires_at = new_pin(), at + WINDOW


def open_until(device: Device, at: datetime) -> datetime | None:
    """When the device's claim ends; None if there is none to answer."""
    waits = device.status == DeviceStatus.PENDING and device.claim_pin is not None
    return device.claim_expires_at if waits and device.claim_expires_at and device.claim_expires_at > at else None


@dataclass(frozen=True, slots=True)
class Claim:
    """A tenant that waits for a terminal."""

    tenant_id: UUID
    device_id: UUID
    pin: str


async def waiting(connection: Connection, serial: str) -> list[Claim]:
    """The open claims to this serial, the oldest first. Purpose "lookup"."""
    rows = await connection.fetch("SELECT tenant_id, device_id, pin FROM open_claims($1)", serial)
    return [Claim(*row) for row in rows]


def proven(claims: Sequence[Claim], pins: Collection[str]) -> Claim | None:
    """The claim whose user is there."""
    shown = list(pins)[:MOST_USERS]
    return next((claim for claim in claims if any(hmac.compare_digest(claim.pin, pin) for pin in shown)), None)


async def bind(connection: Connection, claim: Claim) -> list[Logged]:
    """The terminal is theirs, if it still waits; ring with the events. It is told to CHECK then. Purpose "ingest"."""
    try:
        row = await connection.fetchrow(
            "UPDATE devices d SET status = 'ACTIVE', bound_addresses = array_append(d.bound_addresses, 'shared'), "
            "claim_pin = NULL, claim_expires_at = NULL, muted = true, updated_at = now() "
            "WHERE d.tenant_id = $1 AND d.id = $2 AND d.status = 'PENDING' AND d.claim_pin = $3 "
            "AND d.claim_expires_at > now() RETURNING d.serial_number, d.name, d.site_id, "
            "coalesce(d.time_zone, (SELECT s.time_zone FROM sites s WHERE s.tenant_id = $1 AND s.id = d.site_id))",
            claim.tenant_id,
            claim.device_id,
            claim.pin,
        )
    except UniqueViolationError:
        row = None  # another tenant was quicker
    if row is None:
        return []
    snapshot = DeviceSnapshot(claim.device_id, row[0], row[1], row[2])
    return await outbox.announce(connection, [bindings.bound_event(claim.tenant_id, snapshot, row[3])])


async def fail(connection: Connection, claims: Sequence[Claim]) -> None:
    """Users came, and none of them was the one: a try less for each. Purpose "ingest"."""
    await connection.execute(
        "UPDATE devices d SET claim_tries = d.claim_tries + 1 FROM unnest($1::uuid[], $2::uuid[]) AS c (t, i) "
        "WHERE d.tenant_id = c.t AND d.id = c.i",
        [claim.tenant_id for claim in claims],
        [claim.device_id for claim in claims],
    )
