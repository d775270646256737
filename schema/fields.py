"""Fields that are computed, with types kept: Strawberry's own decorator forgets what it decorates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import strawberry

F = TypeVar("F", bound=Callable[..., Any])


def resolved(description: str) -> Callable[[F], F]:
    """A method that answers a field."""
    decorate: Callable[[F], F] = strawberry.field(description=description)
    return decorate
