"""Fields that are computed, with types kept: Strawberry's own decorator forgets what it decorates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import strawberry

F = TypeVar("F", bound=Callable[..., Any])
#: From an object to the loader and the key that one of its fields will ask for; None when for none.
Ahead: TypeAlias = Callable[[Any], tuple[str, Any] | None]
#: Its place in a field's metadata.
AHEAD: Final = "ahead"


def resolved(description: str, *, ahead: Ahead | None = None) -> Callable[[F], F]:
    """A method that answers a field.

    With `ahead` the executor loads what it will ask for on behalf of a whole list, before the first call. It is a
    hint: the method must answer by itself, and wait for nothing but loaders.
    """
    decorate: Callable[[F], F] = strawberry.field(description=description, metadata={AHEAD: ahead} if ahead else None)
    return decorate
