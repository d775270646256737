"""What tests of the terminals' edge share: a customer with an address, what a terminal sends, what is stored of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from app.database import Database
from app.domain import tenants
from app.vault import Vault
from tests.database import dicts

NINE = "17\t2026-03-02 09:00:00\t0\t1\t0"
TEN = "17\t2026-03-02 10:00:00\t1\t15\t0"


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant with an address for its terminals."""

    tenant_id: UUID
    token: str
    label: str

    def url(self, tail: str) -> str:
        """Of one of its requests, on the tenant's own URL."""
        return f"/d/{self.token}/iclock/{tail}"


async def make_customer(db: Database, vault: Vault) -> Customer:
    """A new one."""
    async with db.across("operate") as connection:
        created = await tenants.create(connection, vault, "Customer")
    return Customer(created.tenant.id, created.enrollment_token, created.enrollment_label)


async def lines(db: Database, tenant_id: UUID) -> list[str]:
    """The punches that are stored, as they came, by their time."""
    return [row["raw"].decode() for row in await dicts(db, tenant_id, "SELECT raw FROM punches ORDER BY local_time")]


async def positions(db: Database, tenant_id: UUID) -> list[tuple[int, str]]:
    """What is in the tenant's log."""
    found = await dicts(db, tenant_id, "SELECT position, type FROM events ORDER BY position")
    return [(row["position"], row["type"]) for row in found]


async def eventually(db: Database, tenant_id: UUID, query: str, wanted: list[dict[str, Any]]) -> None:
    """Contacts are written down after the answer, a second later or so."""
    async with asyncio.timeout(20):
        while await dicts(db, tenant_id, query) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def attlog(serial: str) -> str:
    """Where punches go."""
    return f"cdata?SN={serial}&table=ATTLOG&Stamp=9999"


def body(*text: str) -> bytes:
    """Lines as a terminal sends them."""
    return "".join(line + "\n" for line in text).encode()


def options(answer: bytes) -> dict[str, str]:
    """What a handshake was answered."""
    return dict(line.split("=", 1) for line in answer.decode().split("\n")[1:])
