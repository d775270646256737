"""Whatever somebody writes, by whatever edge, passes here: may the tenant's plan do this now, and who did what?

Both belong to the transaction of the write: nothing is done that is not in the log, and nothing is in the log that was
not done. An action is called as its mutation is, whichever edge it came by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias, cast
from uuid import UUID

from app import ids
from app.database import Session, driver
from app.domain import audit, tenants
from app.domain.audit import Author, Target
from app.domain.tables import now

Given: TypeAlias = Mapping[str, Any]


def _pauses(given: Given) -> bool:
    """Pauses the endpoint and changes nothing else of it."""
    return given.get("status") == "PAUSED" and given.keys() <= {"id", "status"}


#: What a tenant may do although its plan forbids writing: what only makes it safer, and what its browsers read by.
ALWAYS: Final[Mapping[str, Callable[[Given], bool]]] = {
    "apiKeyRevoke": lambda _given: True,
    "deviceSuspend": lambda _given: True,
    "streamTokenCreate": lambda _given: True,
    "webhookEndpointUpdate": _pauses,
}


@dataclass(slots=True)
class Act:
    """One write under way."""

    session: Session
    targets: list[Target] = field(default_factory=list)

    def on(self, kind: ids.Prefix, *target_ids: UUID) -> None:
        """It is done to these: for the log."""
        self.targets += [(kind, target_id) for target_id in target_ids]


@asynccontextmanager
async def begin(session: Session, tenant_id: UUID, author: Author, action: str, given: Given) -> AsyncIterator[Act]:
    """The block does what `action` says with the arguments `given`, which have the contract's names. It is logged as
    done to what the block names, or else to the thing whose id was given.

    Raises TrialEnded or PlanSuspended before the block begins, unless ALWAYS allows it.
    """
    allowed = ALWAYS.get(action)
    if allowed is None or not allowed(given):
        tenants.check_plan(await tenants.get(session, tenant_id), now())
    act = Act(session)
    yield act
    await session.flush()
    await audit.add(await driver(session), tenant_id, author, action, given, targets=act.targets or _named(given))


def _named(given: Given) -> Sequence[Target]:
    """What an action is about that names something: itself, or what it is for."""
    for name in ("id", "deviceId", "endpointId"):
        if name in given:
            kind, target_id = ids.split(given[name])
            return [(cast("ids.Prefix", kind), target_id)]
    return []
