"""The messages of graphql-transport-ws, read and written: what breaks the protocol's own form is Malformed. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import orjson

from schema.sharing import Asked

#: The subprotocol; the older one that clients may offer beside it is not spoken.
PROTOCOL: Final = "graphql-transport-ws"

ACK: Final = b'{"type":"connection_ack"}'
PING: Final = b'{"type":"ping"}'
#: What follows the result in `next`.
NEXT_TAIL: Final = b"}"


class Malformed(Exception):
    """Not a message of the protocol. Its text is the reason given to the client."""


@dataclass(frozen=True, slots=True)
class Init:
    """`connection_init`. The payload is {} when there was none."""

    payload: dict[str, Any]

    @property
    def authorization(self) -> Any:
        """What the payload gives for a key, under `authorization` in any case; None when it gives none."""
        return next((value for name, value in self.payload.items() if name.lower() == "authorization"), None)


@dataclass(frozen=True, slots=True)
class Ping:
    """`ping`, to be answered with the same payload."""

    payload: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Pong:
    """`pong`."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """`subscribe`: an operation of any kind, under an id of the client's choice."""

    id: str
    asked: Asked


@dataclass(frozen=True, slots=True)
class Complete:
    """`complete`: the client wants no more of it."""

    id: str


Message: TypeAlias = Init | Ping | Pong | Subscribe | Complete


def read(text: str | None) -> Message:
    """The message in a frame; None stands for a binary one."""
    if text is None:
        raise Malformed("Messages are text.")
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Malformed("Messages are JSON.") from None
    if not isinstance(message, dict):
        raise Malformed("A message is an object.")
    match message.get("type"):
        case "connection_init":
            return Init(_object(message, "payload") or {})
        case "ping":
            return Ping(_object(message, "payload"))
        case "pong":
            _object(message, "payload")
            return Pong()
        case "subscribe":
            return _subscribe(_id(message), _object(message, "payload") or {})
        case "complete":
            return Complete(_id(message))
    raise Malformed("This type of message is not known.")


def _subscribe(id: str, payload: dict[str, Any]) -> Subscribe:
    query, name = payload.get("query"), payload.get("operationName")
    if not isinstance(query, str):
        raise Malformed("The payload of subscribe has a query.")
    if name is not None and not isinstance(name, str):
        raise Malformed("operationName is text.")
    return Subscribe(id, Asked(query, _object(payload, "variables"), name, _object(payload, "extensions")))


def _id(message: dict[str, Any]) -> str:
    name = message.get("id")
    if not isinstance(name, str) or not name:
        raise Malformed("An id is text.")
    return name


def _object(message: dict[str, Any], name: str) -> dict[str, Any] | None:
    value = message.get(name)
    if value is not None and not isinstance(value, dict):
        raise Malformed(f"{name} is an object.")
    return value


def write_pong(payload: dict[str, Any] | None) -> bytes:
    """`pong`."""
    return orjson.dumps({"type": "pong"} if payload is None else {"type": "pong", "payload": payload})


def next_head(id: str) -> bytes:
    """`next` up to its result, which is JSON already; NEXT_TAIL follows it."""
    return b'{"id":' + orjson.dumps(id) + b',"type":"next","payload":'


def write_error(id: str, errors: Sequence[dict[str, Any]]) -> bytes:
    """`error`: the end of an operation."""
    return orjson.dumps({"id": id, "type": "error", "payload": errors})


def write_complete(id: str) -> bytes:
    """`complete`."""
    return orjson.dumps({"id": id, "type": "complete"})
