"""What comes in. First the filters and orders of lists, then the inputs of mutations.

An absent field is UNSET: of a filter it is no condition, of a change it is no change.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import strawberry
from strawberry import ID, UNSET

from app import ids
from app.domain import deliveries, devices, employees, punches
from app.domain.deliveries import DeliveryStatus
from app.domain.devices import DeviceConnectionState, DeviceStatus
from app.errors import InvalidInput
from app.paging import BothWays, Order
from protocol.adms.codes import Direction, VerifyMode
from schema.values import DeviceOrderField, EmployeeOrderField, OrderDirection, PunchOrderField

T = TypeVar("T")
U = TypeVar("U")

#: Values in one condition, at most.
MOST_VALUES = 1000

# ── filters and orders ───────────────────────────────────────────────────────────────────────────────


@strawberry.input(description="A span of time; either end may be left open.")
class DateTimeRange:
    """Half open, so that spans can be laid end to end."""

    gte: datetime | None = strawberry.field(default=UNSET, description="Inclusive.")
    lt: datetime | None = strawberry.field(default=UNSET, description="Exclusive.")


@strawberry.input(description="Which punches. All conditions hold at once; an empty list matches nothing.")
class PunchFilter:
    """Conditions on punches."""

    device_ids: list[ID] | None = strawberry.field(default=UNSET, description="From one of these devices.")
    site_ids: list[ID] | None = strawberry.field(
        default=UNSET, description="From a device that now stands at one of these sites."
    )
    employee_ids: list[ID] | None = strawberry.field(default=UNSET, description="With the PIN of one of these people.")
    pins: list[str] | None = strawberry.field(default=UNSET, description="With one of these PINs.")
    punched_at: DateTimeRange | None = strawberry.field(default=UNSET, description="Made within this span.")
    received_at: DateTimeRange | None = strawberry.field(default=UNSET, description="Arrived within this span.")
    directions: list[Direction] | None = strawberry.field(default=UNSET, description="Meaning one of these.")
    verify_modes: list[VerifyMode] | None = strawberry.field(
        default=UNSET, description="Verified in one of these ways."
    )
    buffered: bool | None = strawberry.field(
        default=UNSET, description="True: only what arrived as part of a backlog; false: only the rest."
    )
    unmatched: bool | None = strawberry.field(
        default=UNSET, description="True: only punches whose PIN no employee has; false: only the rest."
    )

    def wanted(self) -> punches.Wanted:
        """In the domain's words. InvalidId, InvalidInput."""
        punched_since, punched_before = _span(self.punched_at)
        received_since, received_before = _span(self.received_at)
        return punches.Wanted(
            device_ids=_ids("dev", self.device_ids),
            site_ids=_ids("sit", self.site_ids),
            employee_ids=_ids("emp", self.employee_ids),
            pins=_set(self.pins),
            punched_since=punched_since,
            punched_before=punched_before,
            received_since=received_since,
            received_before=received_before,
            directions=_set(self.directions),
            verify_modes=_set(self.verify_modes),
            buffered=_given(self.buffered),
            unmatched=_given(self.unmatched),
        )


@strawberry.input(description="The order of punches.")
class PunchOrder:
    """Both are required: there is no half an order."""

    field: PunchOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(description="Which end comes first.")

    def order(self) -> Order:
        """In the domain's words."""
        by = {PunchOrderField.PUNCHED_AT: punches.BY_PUNCHED_AT, PunchOrderField.RECEIVED_AT: punches.BY_RECEIVED_AT}
        return _way(by[self.field], self.direction)


@strawberry.input(description="Which devices. All conditions hold at once; an empty list matches nothing.")
class DeviceFilter:
    """Conditions on devices."""

    site_ids: list[ID] | None = strawberry.field(default=UNSET, description="At one of these sites.")
    statuses: list[DeviceStatus] | None = strawberry.field(default=UNSET, description="With one of these statuses.")
    connection: DeviceConnectionState | None = strawberry.field(
        default=UNSET, description="In touch, out of touch, or never heard of."
    )

    def wanted(self) -> devices.Wanted:
        """In the domain's words. InvalidId, InvalidInput."""
        return devices.Wanted(
            site_ids=_ids("sit", self.site_ids),
            statuses=_set(self.statuses),
            connection=_given(self.connection),
        )


@strawberry.input(description="The order of devices.")
class DeviceOrder:
    """Both are required: there is no half an order."""

    field: DeviceOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(description="Which end comes first.")

    def order(self) -> Order:
        """In the domain's words."""
        by = {DeviceOrderField.NAME: devices.BY_NAME, DeviceOrderField.CREATED_AT: devices.BY_CREATED_AT}
        return _way(by[self.field], self.direction)


@strawberry.input(description="Which employees. All conditions hold at once; an empty list matches nothing.")
class EmployeeFilter:
    """Conditions on people."""

    search: str | None = strawberry.field(
        default=UNSET, description="Matches the start of the PIN, or any part of the name or external id."
    )
    external_ids: list[str] | None = strawberry.field(default=UNSET, description="With one of these keys of yours.")

    def wanted(self) -> employees.Wanted:
        """In the domain's words. InvalidInput."""
        search = _given(self.search)
        if search is not None and len(search) > 200:
            raise InvalidInput("A search has at most 200 characters.", path=("filter", "search"))
        return employees.Wanted(search=check_text(search) if search else None, external_ids=_set(self.external_ids))


@strawberry.input(description="The order of employees.")
class EmployeeOrder:
    """Both are required: there is no half an order."""

    field: EmployeeOrderField = strawberry.field(description="What to order by.")
    direction: OrderDirection = strawberry.field(description="Which end comes first.")

    def order(self) -> Order:
        """In the domain's words."""
        by = {
            EmployeeOrderField.NAME: employees.BY_NAME,
            EmployeeOrderField.PIN: employees.BY_PIN,
            EmployeeOrderField.CREATED_AT: employees.BY_CREATED_AT,
        }
        return _way(by[self.field], self.direction)


@strawberry.input(description="Which deliveries. All conditions hold at once; an empty list matches nothing.")
class WebhookDeliveryFilter:
    """Conditions on deliveries."""

    endpoint_ids: list[ID] | None = strawberry.field(default=UNSET, description="To one of these endpoints.")
    statuses: list[DeliveryStatus] | None = strawberry.field(default=UNSET, description="With one of these statuses.")
    event_types: list[str] | None = strawberry.field(default=UNSET, description="Of events of one of these types.")
    event_ids: list[ID] | None = strawberry.field(default=UNSET, description="Of one of these events.")
    created_at: DateTimeRange | None = strawberry.field(default=UNSET, description="Made within this span.")

    def wanted(self) -> deliveries.Wanted:
        """In the domain's words. InvalidId, InvalidInput."""
        created_since, created_before = _span(self.created_at)
        return deliveries.Wanted(
            endpoint_ids=_ids("whk", self.endpoint_ids),
            statuses=_set(self.statuses),
            event_types=_set(self.event_types),
            event_ids=_ids("evt", self.event_ids),
            created_since=created_since,
            created_before=created_before,
        )


def _given(value: T | None) -> T | None:
    return None if value is UNSET else value


def _span(span: DateTimeRange | None) -> tuple[datetime | None, datetime | None]:
    return (_given(span.gte), _given(span.lt)) if span else (None, None)


def _ids(prefix: ids.Prefix, texts: list[ID] | None) -> tuple[UUID, ...] | None:
    return _bounded(texts, lambda text: ids.read(prefix, text))


def _set(values: list[T] | None) -> tuple[T, ...] | None:
    return _bounded(values, lambda value: check_text(value) if isinstance(value, str) else value)


def _bounded(values: list[T] | None, convert: Callable[[T], U]) -> tuple[U, ...] | None:
    """Each once and in an order of its own: two ways to write the same condition are the same condition."""
    if not values:
        return None if values is None or values is UNSET else ()
    if len(values) > MOST_VALUES:
        raise InvalidInput(f"A condition lists at most {MOST_VALUES} values.", path=("filter",))
    return tuple(sorted({convert(value) for value in values}, key=str))


def check_text(text: T) -> T:
    """`text` itself. What the database cannot even be asked for is InvalidInput: NUL, and half a surrogate pair."""
    if any(letter == "\0" or "\ud800" <= letter <= "\udfff" for letter in str(text)):
        raise InvalidInput("A text has a NUL or half a character in it.")
    return text


def _way(by: BothWays, direction: OrderDirection) -> Order:
    return by.up if direction is OrderDirection.ASC else by.down


# ── inputs of mutations ──────────────────────────────────────────────────────────────────────────────
