"""docs/reference/events.md, out of the types of bodies. `python -m tests.checks --write` renews it.

The bodies that it shows were sent: tests/docs/test_events.py makes each of them and keeps one in bodies.json.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from app.domain import payloads
from app.domain.events import EventType

PAGE: Final = Path(__file__).parents[2] / "docs" / "reference" / "events.md"
BODIES: Final = Path(__file__).parent / "bodies.json"
#: When each of them happens.
WHEN: Final[dict[EventType, str]] = {
    EventType.PUNCH_CREATED: "A terminal sent a new punch.",
    EventType.PUNCH_MATCHED: "Somebody was entered with the PIN of punches that are here already.",
    EventType.DEVICE_ONLINE: "A terminal called that was away, or that never had called.",
    EventType.DEVICE_OFFLINE: "A terminal did not call for 60 seconds after it should have.",
    EventType.DEVICE_BOUND: "A terminal's first contact after it was registered, or its approval.",
    EventType.EMPLOYEE_ENROLLED: "Somebody registered a finger, a face or a palm at a terminal.",
    EventType.COMMAND_COMPLETED: "A command that you sent ended, in whatever way.",
    EventType.WEBHOOK_TEST: "Somebody asked for a test of an endpoint; it goes to that endpoint only.",
    EventType.WEBHOOK_ENDPOINT_DISABLED: "An endpoint was given up; never sent to that endpoint.",
}
_HEAD: Final = """# Events

Every type of event, with the JSON Schema (2020-12) of its webhook body and a body that was sent. A server has the
schemas at `/schemas/<type>.json`, without a key; `/schemas/` lists them. This page is written from the types that the
program's own bodies are checked against, and `make check` compares the two.

Around `data` every body is the same: `id`, the same over retries; `type`; `timestamp`; `tenant_id`; `feed_cursor`, the
event's place in the [feed](feed.md). Headers, signatures and retries: [Webhooks](webhooks.md).

"""


def page() -> str:
    """The whole page."""
    bodies = json.loads(BODIES.read_text())
    parts = [_HEAD]
    for event_type in EventType:
        schema = payloads.schema(event_type)
        parts.append(f"## {event_type.value}\n\n{WHEN[event_type]}\n\n")
        parts.append("| member of `data` | type | |\n|---|---|---|\n")
        parts += [
            f"| `{name}` | {kind} | {said} |\n" for name, kind, said in _members(schema["properties"]["data"], schema)
        ]
        parts.append(f"\nA body:\n\n```json\n{_shown(bodies[event_type.value])}\n```\n\n")
        parts.append(f"Its schema, `/schemas/{event_type.value}.json`:\n\n```json\n{_shown(schema)}\n```\n\n")
    return "".join(parts).rstrip("\n") + "\n"


def _members(kind: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[tuple[str, str, str]]:
    """Each member, those of objects inside after their object."""
    rows: list[tuple[str, str, str]] = []
    kind = _followed(kind, schema)
    for name, member in kind["properties"].items():
        options = [_followed(option, schema) for option in member.get("anyOf", [member])]
        said = next((option["description"] for option in [member, *options] if "description" in option), "")
        if name not in kind.get("required", ()):
            said = f"{said} May be absent.".strip()
        rows.append((path + name, " or ".join(_name(option) for option in options), said.replace("\n", " ")))
        for option in options:
            if "properties" in option:
                rows += _members(option, schema, f"{path}{name}.")
    return rows


def _followed(kind: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in kind:
        return kind
    found: dict[str, Any] = schema["$defs"][kind["$ref"].rpartition("/")[2]]
    return found


def _name(kind: dict[str, Any]) -> str:
    if "enum" in kind:
        return ", ".join(f"`{value}`" for value in kind["enum"])
    if kind.get("format") == "date-time":
        return "instant"
    if kind.get("type") == "array":
        return "list of " + _name(kind["items"])
    return str(kind.get("type", "object"))


def _shown(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
