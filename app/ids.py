"""TypeIDs: a prefix and a UUIDv7 in Crockford's base 32, `dev_01jz…`. The database holds the UUID, others the text."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal, get_args
from uuid import UUID

from uuid_utils.compat import uuid7

from app.errors import AppError

Prefix = Literal["ten", "key", "sit", "dev", "cmd", "emp", "pun", "evt", "whk", "whd", "aud", "rej", "rep"]
PREFIXES: Final[frozenset[str]] = frozenset(get_args(Prefix))

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
#: Our letters as `int` knows them in base 32; every other byte is one that it refuses.
_DIGITS: Final = bytes(
    b"0123456789abcdefghijklmnopqrstuv"[_ALPHABET.index(chr(byte))] if chr(byte) in _ALPHABET else 0x7E
    for byte in range(256)
)
_LENGTH: Final = 26
# Three letters at a time and no loop: an id is printed several times for every punch there is.
_TRIPLES: Final = [a + b + c for a in _ALPHABET for b in _ALPHABET for c in _ALPHABET]
_PAIRS: Final = [a + b for a in _ALPHABET for b in _ALPHABET]


class InvalidId(AppError):
    """Not an id of the kind that is wanted here."""

    code, status = "invalid_id", 400


def new() -> UUID:
    """A fresh, time-sortable UUIDv7."""
    return uuid7()


def floor(at: datetime) -> UUID:
    """Not greater than any UUIDv7 made at that moment or later, by the same clock."""
    return UUID(int=max(0, int(at.timestamp() * 1000)) << 80)


def show(prefix: Prefix, value: UUID) -> str:
    """The id as the outside sees it."""
    n, t = value.int, _TRIPLES
    high, low = n >> 60, n & 0xFFFFFFFFFFFFFFF
    return (
        f"{prefix}_{_PAIRS[high >> 60]}{t[high >> 45 & 32767]}{t[high >> 30 & 32767]}{t[high >> 15 & 32767]}"
        f"{t[high & 32767]}{t[low >> 45]}{t[low >> 30 & 32767]}{t[low >> 15 & 32767]}{t[low & 32767]}"
    )


def read(prefix: Prefix, text: str) -> UUID:
    """The UUID behind `text`; InvalidId when it is not an id with this prefix."""
    found, value = split(text)
    if found != prefix:
        raise InvalidId(f"{text[:64]!r} is not an id of the form {prefix}_… .")
    return value


def split(text: str) -> tuple[str, UUID]:
    """Any id taken apart: its prefix and UUID."""
    prefix, sign, rest = text.partition("_")
    if not sign or prefix not in PREFIXES or len(rest) != _LENGTH or rest[0] > "7":
        raise InvalidId(f"{text[:64]!r} is not an id.")
    try:
        n = int(rest.encode().translate(_DIGITS), 32)
    except ValueError as exc:  # text that UTF-8 cannot say among them
        raise InvalidId(f"{text[:64]!r} is not an id.") from exc
    return prefix, UUID(int=n)
