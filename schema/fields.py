"""Fields that are computed, with types kept: Strawberry's own decorator forgets what it decorates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

import strawberry

F = TypeVar("F", bound=Callable[..., Any])
#: From an object to the loader and the key that one of its fields will ask for; None when for none. If the field has
#: arguments: from the object and the context, and the arguments that are there.
Ahead: TypeAlias = Callable[..., tuple[str, Any] | None]
#: From the context, and the key and what was loaded of it ahead, to what the method would answer.
Shown: TypeAlias = Callable[[Any, Any, Any], Any]
#: Their places in a field's metadata.
AHEAD: Final = "ahead"
SHOWN: Final = "shown"


def resolved(description: str, *, ahead: Ahead | None = None, shown: Shown | None = None) -> Callable[[F], F]:
    """A method that answers a field.

    With `ahead` the executor loads what it will ask for on behalf of a whole list, before the first call; with `shown`
    besides, it need not call the method at all. Both are hints: the method must answer by itself, and wait for nothing
    but loaders.
    """
    hints = {name: hint for name, hint in ((AHEAD, ahead), (SHOWN, shown)) if hint is not None}
    decorate: Callable[[F], F] = strawberry.field(description=description, metadata=hints)
    return decorate
