"""Whether a webhook body is as its JSON Schema says."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import jsonschema
import orjson

from app.domain import payloads
from app.domain.events import EventType


def check(body: bytes) -> str:
    """ValidationError when it is not; its type."""
    sent = orjson.loads(body)
    _validator(EventType(sent["type"])).validate(sent)
    return str(sent["type"])


@lru_cache
def _validator(event_type: EventType) -> Any:
    return jsonschema.Draft202012Validator(payloads.schema(event_type), format_checker=jsonschema.FormatChecker())
