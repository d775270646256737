"""Whatever somebody writes, by whatever edge, passes here: may the tenant's plan do this now?

It is asked inside the transaction of the write. An action is called as its mutation is, whichever edge it came by.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias
from uuid import UUID

from app.database import Session
from app.domain import tenants
from app.domain.tables import now

Given: TypeAlias = Mapping[str, Any]


def _pauses(given: Given) -> bool:
    """Pauses the endpoint and changes nothing else of it."""
    return given.get("status") == "PAUSED" and given.keys() <= {"id", "status"}


#: What a tenant may do although its plan forbids writing: whatever only makes it safer, and no more.
ALWAYS: Final[Mapping[str, Callable[[Given], bool]]] = {
    "apiKeyRevoke": lambda _given: True,
    "deviceSuspend": lambda _given: True,
    "webhookEndpointUpdate": _pauses,
}


@dataclass(slots=True)
class Act:
    """One write under way."""

    session: Session


@asynccontextmanager
async def begin(session: Session, tenant_id: UUID, action: str, given: Given) -> AsyncIterator[Act]:
    """The block does what `action` says with the arguments `given`, which have the contract's names.

    Raises TrialEnded or PlanSuspended before the block begins, unless ALWAYS allows it.
    """
    allowed = ALWAYS.get(action)
    if allowed is None or not allowed(given):
        tenants.check_plan(await tenants.get(session, tenant_id), now())
    yield Act(session)
