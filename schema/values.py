"""Scalars and enums: how single values are written and read. The enums are the domain's own, described here."""

from __future__ import annotations

import re
from datetime import datetime
from enum import Enum
from typing import Any, Final, NewType

import strawberry
from graphql import GraphQLError
from strawberry.types.scalar import ScalarDefinition

from app.domain.audit import AuditSource
from app.domain.commands import CommandStatus
from app.domain.deliveries import DeliveryStatus
from app.domain.devices import DeviceConnectionState, DeviceDialect, DeviceStatus
from app.domain.employees import EmployeePrivilege
from app.domain.endpoints import EndpointStatus
from app.domain.events import timestamp
from app.domain.feed import FeedStart
from app.domain.placements import PlacementState
from app.domain.reconciliations import Completeness
from app.domain.replays import ReplayStatus
from app.domain.tenants import Plan
from protocol.adms import clock
from protocol.adms.codes import Direction, VerifyMode

#: A wall-clock reading: a datetime without zone.
LocalDateTime = NewType("LocalDateTime", datetime)

_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_LOCAL: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", re.ASCII)


def read_instant(text: Any) -> datetime:
    """RFC 3339 with any offset, as an aware datetime in UTC; within what every zone can show."""
    try:
        if isinstance(text, str) and _INSTANT.fullmatch(text):
            return clock.within_calendar(datetime.fromisoformat(text.upper()))
    except ValueError:
        pass
    raise GraphQLError("A DateTime is an instant in RFC 3339, such as 2026-03-01T07:00:04.120Z.")


def read_local(text: Any) -> LocalDateTime:
    """A date and a time without offset."""
    try:
        if isinstance(text, str) and _LOCAL.fullmatch(text):
            return LocalDateTime(datetime.fromisoformat(text))
    except ValueError:
        pass
    raise GraphQLError("A LocalDateTime is a wall-clock reading without offset, such as 2026-03-01T08:00:02.")


def write_local(value: datetime) -> str:
    """To the second, as terminals show it."""
    return value.isoformat(timespec="seconds")


SCALARS: Final[dict[object, ScalarDefinition]] = {
    datetime: strawberry.scalar(
        name="DateTime",
        description="An instant: RFC 3339 in UTC, ending in Z. Other offsets are understood in inputs.",
        serialize=timestamp,
        parse_value=read_instant,
    ),
    LocalDateTime: strawberry.scalar(
        name="LocalDateTime",
        description="A wall-clock reading without offset, as the terminal showed it: 2026-03-01T08:00:02.",
        serialize=write_local,
        parse_value=read_local,
    ),
}


def _describe(enum: type[Enum], description: str, *, name: str | None = None, **values: str) -> None:
    """Make `enum` known to the schema, each of its values with a sentence."""
    strawberry.enum(enum, name=name or enum.__name__, description=description)
    for value in enum.__strawberry_definition__.values:  # type: ignore[attr-defined]
        value.description = values.pop(value.name)
    if values:
        raise LookupError(f"{enum.__name__} has no {', '.join(values)}.")


@strawberry.enum(description="Which end comes first.")
class OrderDirection(Enum):
    """The direction of a list."""

    ASC = strawberry.enum_value("ASC", description="Smallest, first or oldest first.")
    DESC = strawberry.enum_value("DESC", description="Greatest, last or newest first.")


@strawberry.enum(description="What punches can be ordered by.")
class PunchOrderField(Enum):
    """Both have an index."""

    PUNCHED_AT = strawberry.enum_value("PUNCHED_AT", description="When the punch was made.")
    RECEIVED_AT = strawberry.enum_value("RECEIVED_AT", description="When it arrived here.")


@strawberry.enum(description="What devices can be ordered by.")
class DeviceOrderField(Enum):
    """A name may change while a list is being read; a date cannot."""

    NAME = strawberry.enum_value("NAME", description="The device's name.")
    CREATED_AT = strawberry.enum_value("CREATED_AT", description="When it was first registered or seen.")


@strawberry.enum(description="What employees can be ordered by.")
class EmployeeOrderField(Enum):
    """Those without a name come last by name, and first when the order is reversed."""

    NAME = strawberry.enum_value("NAME", description="The name; those without one count as last.")
    PIN = strawberry.enum_value("PIN", description="The PIN, as text.")
    CREATED_AT = strawberry.enum_value("CREATED_AT", description="When the person was first entered here.")


_describe(
    Plan,
    "Where a tenant stands.",
    TRIAL="The first seven days; everything works.",
    ACTIVE="Paid; everything works.",
    SUSPENDED="Trial over or unpaid. Terminals are heard, punches kept, queries, feeds and webhooks go on; writes "
    "answer trial_ended or plan_suspended, except revoking keys, pausing endpoints and suspending devices.",
)
_describe(
    AuditSource,
    "By which way somebody came who did something.",
    API="With an API key, over GraphQL.",
    DASHBOARD="With an API key, signed in at the dashboard.",
    CLI="The operator, at the command line.",
    SIGNUP="Somebody who signed up for a trial.",
)
_describe(
    DeviceStatus,
    "Whether a device belongs here.",
    PENDING="Seen or registered, not yet bound to this tenant by proof of possession or approval: nothing is "
    "acknowledged.",
    ACTIVE="Bound: what it sends is stored and acknowledged.",
    SUSPENDED="Not heard for the time being; it keeps its records.",
    RETIRED="Gone for good; its history stays, and its serial number may be registered anew.",
)
_describe(
    DeviceConnectionState,
    "Whether a terminal is in touch.",
    NEVER_SEEN="It has never called.",
    ONLINE="It calls when it should.",
    OFFLINE="It missed its last call by more than a minute.",
)
_describe(
    DeviceDialect,
    "Which of the two protocols a terminal speaks.",
    ATTENDANCE="Time-attendance PUSH: ATTLOG, OPERLOG.",
    SECURITY="Access-control (security) PUSH: registry, rtlog, tabledata.",
)
_describe(
    CommandStatus,
    "How far a command has come.",
    name="DeviceCommandStatus",
    QUEUED="Waiting for the terminal to poll.",
    SENT="Handed out; its report is awaited.",
    SUCCEEDED="Carried out, as the terminal says.",
    FAILED="Refused by the terminal: returnCode and output say why.",
    EXPIRED="Its time passed before the terminal reported on it.",
    CANCELLED="Taken back. If it was handed out before, the terminal may have carried it out.",
)
_describe(
    PlacementState,
    "How far a placement has come.",
    WANTED="The person shall be there; the terminal has not shown it yet.",
    CONFIRMED="The terminal took the person, and shows them.",
    REMOVING="The person shall not be there any more; the terminal may still have them.",
    FAILED="The terminal refused: reason says why. Naming the device again tries again.",
)
_describe(
    Completeness,
    "What comparing a terminal's count with ours came to.",
    name="CompletenessState",
    UNKNOWN="Not compared yet.",
    COMPLETE="All that the terminal holds of the period is stored here.",
    CHECKING="The counts differ: the difference is being looked for, and asked for again.",
    MISSING="The terminal counts more than it sends, even when asked again: missing says when.",
    NOT_COUNTED="The terminal does not count the punches of a period: reason says why.",
)
_describe(
    EmployeePrivilege,
    "What a person may do at a terminal.",
    USER="Punch.",
    ADMIN="Punch, and open the terminal's menu.",
)
_describe(
    Direction,
    "What a punch means.",
    name="PunchDirection",
    CHECK_IN="Came to work.",
    CHECK_OUT="Left work.",
    BREAK_OUT="Left for a break.",
    BREAK_IN="Came back from a break.",
    OVERTIME_IN="Began overtime.",
    OVERTIME_OUT="Ended overtime.",
    UNSPECIFIED="The terminal did not say, or said something of its own.",
)
_describe(
    VerifyMode,
    "How a person proved who they are.",
    PASSWORD="By typing a password.",  # noqa: S106
    FINGERPRINT="By a fingerprint.",
    CARD="By a card.",
    FACE="By their face.",
    PALM="By their palm.",
    OTHER="In some other way, or in several at once.",
)
_describe(
    FeedStart,
    "Where a feed begins without a cursor.",
    NOW="Only what happens from now on.",
    BEGINNING="From the oldest punch kept.",
)
_describe(
    EndpointStatus,
    "Whether an endpoint is sent to.",
    name="WebhookEndpointStatus",
    ENABLED="Deliveries are sent.",
    PAUSED="Deliveries are kept until it is resumed.",
    DISABLED="Nothing is kept for it or sent to it; disabledReason says why.",
)
_describe(
    ReplayStatus,
    "How far a replay has come.",
    name="WebhookReplayStatus",
    RUNNING="Its events are being sent.",
    COMPLETED="Every event of it was delivered or given up.",
    CANCELLED="The endpoint was deleted or disabled before the end.",
)
_describe(
    DeliveryStatus,
    "How far a delivery has come.",
    name="WebhookDeliveryStatus",
    PENDING="Waiting for its next attempt.",
    SENDING="Being attempted right now.",
    DELIVERED="Answered with success.",
    EXHAUSTED="Every attempt failed; can be retried or replayed.",
    CANCELLED="Given up before its last attempt, because its endpoint was deleted or disabled.",
)
