"""Whether a webhook body is as its JSON Schema says, and what one holds that is."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from uuid import UUID

import jsonschema
import orjson

from app import ids
from app.domain import payloads
from app.domain.events import EventType


def check(body: bytes) -> str:
    """ValidationError when it is not; its type."""
    sent = orjson.loads(body)
    _validator(EventType(sent["type"])).validate(sent)
    return str(sent["type"])


def example(event_type: EventType, number: int = 0) -> dict[str, Any]:
    """Data as an event of this type has it."""
    at = "2026-03-01T07:00:04.120Z"
    device = {"id": ids.show("dev", UUID(int=1)), "serial_number": "TEST1", "name": "Gate", "site_id": None}
    person = {"id": ids.show("emp", UUID(int=2)), "name": "Zoë", "external_id": None}
    endpoint = {"endpoint_id": ids.show("whk", UUID(int=3)), "url": "https://receiver.example/Zoë"}
    punch = {
        "id": ids.show("pun", UUID(int=number)),
        "pin": "0042",
        "device": device,
        "employee": person,
        "punched_at": at,
        "local_time": "2026-03-01T08:00:04",
        "time_zone": "Africa/Casablanca",
        "received_at": at,
        "direction": "check_in",
        "state_code": 0,
        "verify_mode": "face",
        "verify_code": 15,
        "work_code": None,
        "temperature_celsius": None,
        "mask_worn": None,
        "buffered": False,
        "flags": [],
    }
    command = {
        "id": ids.show("cmd", UUID(int=number)),
        "kind": "REBOOT",
        "status": "SUCCEEDED",
        "return_code": 0,
        "output": None,
        "device": device,
        "created_at": at,
        "sent_at": at,
        "completed_at": at,
    }
    kept = ("pin", "employee", "device", "local_time", "received_at")
    examples: dict[EventType, dict[str, Any]] = {
        EventType.PUNCH_CREATED: punch,
        EventType.PUNCH_MATCHED: punch,
        EventType.DEVICE_ONLINE: device,
        EventType.DEVICE_OFFLINE: device | {"last_seen_at": at},
        EventType.DEVICE_BOUND: device | {"time_zone": "Africa/Casablanca"},
        EventType.EMPLOYEE_ENROLLED: {name: punch[name] for name in kept} | {"kind": "fingerprint", "finger": 6},
        EventType.COMMAND_COMPLETED: command,
        EventType.WEBHOOK_TEST: endpoint,
        EventType.WEBHOOK_ENDPOINT_DISABLED: endpoint | {"reason": "Gone.", "disabled_at": at},
    }
    return examples[event_type]


@lru_cache
def _validator(event_type: EventType) -> Any:
    return jsonschema.Draft202012Validator(payloads.schema(event_type), format_checker=jsonschema.FormatChecker())
