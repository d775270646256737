"""The `data` of each type of event, as types: what builds an event's body is checked against them, and the JSON Schemas
that integrators read are made of them.

Members may be added to a type. None is renamed or removed, and none becomes null that was not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Final, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from app.domain.events import EventType
from protocol.adms.codes import Direction, VerifyMode

_INSTANT: Final = "In UTC with milliseconds."

Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"}, description=_INSTANT)]
LocalTime = Annotated[
    str,
    Field(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$", description="On the terminal's clock, without an offset."),
]
Name = Annotated[str, Field(min_length=1)]


def _id(prefix: str) -> Any:
    return Field(pattern=f"^{prefix}_[0-9a-z]{{26}}$")


DeviceId = Annotated[str, _id("dev")]
SiteId = Annotated[str, _id("sit")]
EmployeeId = Annotated[str, _id("emp")]
PunchId = Annotated[str, _id("pun")]
CommandId = Annotated[str, _id("cmd")]
EndpointId = Annotated[str, _id("whk")]


class DeviceData(TypedDict):
    """The terminal, as it was then."""

    id: DeviceId
    serial_number: Name
    name: str | None
    site_id: SiteId | None


class EmployeeData(TypedDict):
    """Who has the PIN; null where nobody does."""

    id: EmployeeId
    name: str | None
    external_id: str | None


class PunchData(TypedDict):
    """punch.created and punch.matched."""

    id: PunchId
    pin: str
    device: DeviceData
    employee: EmployeeData | None
    punched_at: Instant
    local_time: LocalTime
    time_zone: Name
    received_at: Instant
    direction: Annotated[str, Field(json_schema_extra={"enum": [direction.value for direction in Direction]})]
    state_code: int | None
    verify_mode: Annotated[str, Field(json_schema_extra={"enum": [mode.value for mode in VerifyMode]})]
    verify_code: int | None
    work_code: str | None
    temperature_celsius: float | None
    mask_worn: bool | None
    buffered: bool
    flags: list[str]


class PresenceData(DeviceData):
    """device.online and device.offline."""

    last_seen_at: NotRequired[Instant | None]


class BoundData(DeviceData):
    """device.bound."""

    time_zone: str | None


class EnrolledData(TypedDict):
    """employee.enrolled: that it was registered, never what."""

    pin: str
    employee: EmployeeData | None
    device: DeviceData
    kind: Name
    finger: int | None
    local_time: LocalTime
    received_at: Instant


class CommandData(TypedDict):
    """command.completed."""

    id: CommandId
    kind: Name
    status: Name
    return_code: int | None
    output: str | None
    device: DeviceData
    created_at: Instant
    sent_at: Instant | None
    completed_at: Instant


class EndpointTestData(TypedDict):
    """webhook.test."""

    endpoint_id: EndpointId
    url: Name


class EndpointDisabledData(TypedDict):
    """webhook.endpoint_disabled."""

    endpoint_id: EndpointId
    url: Name
    reason: Name
    disabled_at: Instant


DATA: Final[dict[EventType, Any]] = {
    EventType.PUNCH_CREATED: PunchData,
    EventType.PUNCH_MATCHED: PunchData,
    EventType.DEVICE_ONLINE: PresenceData,
    EventType.DEVICE_OFFLINE: PresenceData,
    EventType.DEVICE_BOUND: BoundData,
    EventType.EMPLOYEE_ENROLLED: EnrolledData,
    EventType.COMMAND_COMPLETED: CommandData,
    EventType.WEBHOOK_TEST: EndpointTestData,
    EventType.WEBHOOK_ENDPOINT_DISABLED: EndpointDisabledData,
}


@lru_cache
def schema(event_type: EventType) -> dict[str, Any]:
    """JSON Schema 2020-12 of the whole webhook body of this type, without its `$id`."""
    data = TypeAdapter(DATA[event_type]).json_schema(ref_template="#/$defs/{model}")
    parts = data.pop("$defs", {})
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": event_type.value,
        "type": "object",
        "properties": {
            "id": {"type": "string", "pattern": "^evt_[0-9a-z]{26}$", "description": "The same over retries."},
            "type": {"const": event_type.value},
            "timestamp": {"type": "string", "format": "date-time", "description": _INSTANT},
            "tenant_id": {"type": "string", "pattern": "^ten_[0-9a-z]{26}$"},
            "feed_cursor": {"type": "string", "minLength": 1, "description": "The event's place in the feed."},
            "data": data,
        },
        "required": ["id", "type", "timestamp", "tenant_id", "feed_cursor", "data"],
        "$defs": parts,
    }
