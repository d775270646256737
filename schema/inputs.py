"""What comes in. First the filters and orders of lists, then the inputs of mutations.

An absent field is UNSET: of a filter it is no condition, of a change it is no change.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, Literal, TypeVar
from uuid import UUID

import strawberry
from strawberry import ID, UNSET
from strawberry.utils.str_converters import to_camel_case

from app import ids
from app.domain import audit, commands, deliveries, devices, employees, punches
from app.domain.audit import AuditSource
from app.domain.commands import CommandStatus
from app.domain.deliveries import DeliveryStatus
from app.domain.devices import DeviceConnectionState, DeviceStatus
from app.domain.employees import EmployeePrivilege
from app.domain.endpoints import EndpointStatus
from app.domain.roster import Person
from app.errors import InvalidInput
from app.ids import InvalidId
from app.paging import BothWays, Order
from protocol.adms.codes import Direction, VerifyMode
from schema.values import (
    DeviceOrderField,
    EmployeeOrderField,
    LocalDateTime,
    OrderDirection,
    PunchOrderField,
)

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


@strawberry.input(description="Which commands. All conditions hold at once; an empty list matches nothing.")
class DeviceCommandFilter:
    """Conditions on commands."""

    device_ids: list[ID] | None = strawberry.field(default=UNSET, description="For one of these devices.")
    statuses: list[CommandStatus] | None = strawberry.field(default=UNSET, description="With one of these statuses.")

    def wanted(self) -> commands.Wanted:
        """In the domain's words. InvalidId, InvalidInput."""
        return commands.Wanted(device_ids=_ids("dev", self.device_ids), statuses=_set(self.statuses))


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


@strawberry.input(
    description="Which entries of the audit log. All conditions hold at once; an empty list matches nothing."
)
class AuditFilter:
    """Conditions on entries."""

    actions: list[str] | None = strawberry.field(
        default=UNSET, description="One of these was done, e.g. apiKeyRevoke or tenantActivate."
    )
    api_key_ids: list[ID] | None = strawberry.field(default=UNSET, description="Done with one of these keys.")
    target_ids: list[ID] | None = strawberry.field(
        default=UNSET, description="Done to one of these, of whatever kind; they may be gone by now."
    )
    sources: list[AuditSource] | None = strawberry.field(default=UNSET, description="Done in one of these ways.")
    created_at: DateTimeRange | None = strawberry.field(default=UNSET, description="Done within this span.")

    def wanted(self) -> audit.Wanted:
        """In the domain's words. InvalidId, InvalidInput."""
        created_since, created_before = _span(self.created_at)
        return audit.Wanted(
            actions=_set(self.actions),
            key_ids=_ids("key", self.api_key_ids),
            target_ids=_bounded(self.target_ids, lambda text: ids.split(text)[1]),
            sources=_set(self.sources),
            created_since=created_since,
            created_before=created_before,
        )


def read_moved(device_ids: list[ID] | None, command_ids: list[ID] | None) -> commands.Moved:
    """Which commands are followed. InvalidId, InvalidInput."""
    return commands.Moved(device_ids=_ids("dev", device_ids), command_ids=_ids("cmd", command_ids))


def read_followed(prefix: Literal["dev", "whk"], keys: list[ID] | None) -> tuple[UUID, ...] | None:
    """Whose changes are followed; None: everybody's. InvalidId, InvalidInput."""
    return _ids(prefix, keys)


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

_KEY = (
    "Makes the call safe to repeat for 24 hours: with the same key and arguments it answers with the same outcome and "
    "does nothing twice. 1 to 255 characters."
)


class MutationInput:
    """What the inputs of mutations share."""

    #: UNSET also where the contract has none.
    idempotency_key: str | None = UNSET

    def changes(self, *names: str) -> dict[str, Any]:
        """Those of the named fields that were given; None where they are to be cleared."""
        return {name: value for name in names if (value := getattr(self, name)) is not UNSET}

    def arguments(self) -> dict[str, Any]:
        """The coerced arguments in JSON's types, without the key: what tells two calls apart."""
        return {name: value for name, value in _plain(self).items() if name != "idempotency_key"}

    def named(self) -> dict[str, Any]:
        """The same under the contract's names."""
        named: dict[str, Any] = _camel(self.arguments())
        return named


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        given = {item.name: getattr(value, item.name) for item in fields(value)}
        return {name: _plain(part) for name, part in given.items() if part is not UNSET}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, Enum):
        return value.name
    return value.isoformat() if isinstance(value, datetime) else value


def _camel(value: Any) -> Any:
    if isinstance(value, dict):
        return {to_camel_case(name.rstrip("_")): _camel(part) for name, part in value.items()}
    return [_camel(part) for part in value] if isinstance(value, list) else value


def read_id(prefix: ids.Prefix, text: str, field: str = "id") -> UUID:
    """The UUID behind an id of an input; InvalidId says which field it was."""
    try:
        return ids.read(prefix, text)
    except InvalidId as exc:
        exc.path = ("input", field)
        raise


def read_grace(seconds: int | None) -> timedelta:
    """A grace period; a day where none was named."""
    return timedelta(days=1) if seconds is None else timedelta(seconds=seconds)


@strawberry.input(description="A new place.")
class SiteCreateInput(MutationInput):
    """What a site needs."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    name: str = strawberry.field(description="1 to 200 characters, on one line.")
    time_zone: str = strawberry.field(description="IANA name, e.g. Africa/Casablanca.")


@strawberry.input(description="Changes of a place.")
class SiteUpdateInput(MutationInput):
    """An absent field is unchanged."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="sit_…")
    name: str | None = strawberry.field(default=UNSET, description="1 to 200 characters; cannot be cleared.")
    time_zone: str | None = strawberry.field(default=UNSET, description="IANA name; cannot be cleared.")


@strawberry.input(description="A place to remove.")
class SiteDeleteInput(MutationInput):
    """Only a site without devices can be removed."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="sit_…")


@strawberry.input(description="A terminal to expect.")
class DeviceRegisterInput(MutationInput):
    """Its first contact binds it."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    serial_number: str = strawberry.field(
        description="As the terminal's label or menu shows it: letters, digits, dots, hyphens and underscores."
    )
    name: str | None = strawberry.field(
        default=UNSET, description="1 to 200 characters; the serial number where there is none."
    )
    site_id: ID | None = strawberry.field(default=UNSET, description="Where it hangs.")
    time_zone: str | None = strawberry.field(
        default=UNSET, description="IANA name of the zone that its clock shows; its site's where there is none."
    )


@strawberry.input(description="Changes of a device.")
class DeviceUpdateInput(MutationInput):
    """An absent field is unchanged, null clears."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="dev_…")
    name: str | None = strawberry.field(default=UNSET, description="1 to 200 characters; null: the serial number.")
    site_id: ID | None = strawberry.field(default=UNSET, description="Where it hangs; null: nowhere in particular.")
    time_zone: str | None = strawberry.field(default=UNSET, description="IANA name; null: its site's.")


@strawberry.input(description="A waiting device to let in, and what to call it.")
class DeviceApproveInput(MutationInput):
    """As an update that binds."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="dev_…")
    name: str | None = strawberry.field(default=UNSET, description="1 to 200 characters; null: the serial number.")
    site_id: ID | None = strawberry.field(default=UNSET, description="Where it hangs; null: nowhere in particular.")
    time_zone: str | None = strawberry.field(
        default=UNSET, description="IANA name; null: its site's. One of the two is needed."
    )


@strawberry.input(description="One device.")
class DeviceIdInput(MutationInput):
    """Suspend, resume, retire."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="dev_…")


@strawberry.input(description="A door to open.")
class UnlockDoorInput:
    """It closes by itself."""

    door: int = strawberry.field(default=1, description="From 1; attendance terminals have one door.")
    seconds: int = strawberry.field(
        default=5, description="1 to 254. Attendance terminals open for as long as their own menu says."
    )


@strawberry.input(description="A finger to register at the terminal, where the person has to stand.")
class EnrollFingerprintInput:
    """The terminal asks for the finger by itself."""

    pin: str = strawberry.field(description="Whose finger: 1 to 24 letters or digits.")
    finger: int = strawberry.field(
        default=6, description="0 to 9: the left little finger is 0, the right little finger 9."
    )
    overwrite: bool = strawberry.field(default=False, description="Whether to replace one that is there.")


@strawberry.input(
    one_of=True,
    description="Exactly one. There is no raw command: shell, file, URL and clear-log verbs cannot be sent. A Boolean "
    "must be true.",
)
class DeviceCommandInput:
    """What a terminal can be told."""

    reboot: bool | None = strawberry.field(default=UNSET, description="Start again.")
    refresh_info: bool | None = strawberry.field(
        default=UNSET, description="Ask for model, firmware, counts and options."
    )
    upload_now: bool | None = strawberry.field(default=UNSET, description="Send everything not yet acknowledged, now.")
    sync_time: bool | None = strawberry.field(default=UNSET, description="Set the terminal's clock.")
    unlock_door: UnlockDoorInput | None = strawberry.field(
        default=UNSET, description="Open a door. Needs doors:unlock instead of devices:write; waits for a minute only."
    )
    enroll_fingerprint: EnrollFingerprintInput | None = strawberry.field(default=UNSET, description="Ask for a finger.")

    def read(self) -> tuple[str, dict[str, Any]]:
        """Kind and arguments. InvalidInput for a Boolean that is false."""
        ((name, value),) = _plain(self).items()
        kind = to_camel_case(name)
        if value is False:
            raise InvalidInput(f"{kind} must be true: leave it out to not do it.", path=("input", "command", kind))
        return kind, value if isinstance(value, dict) else {}


@strawberry.input(description="A command for a device.")
class DeviceCommandSendInput(MutationInput):
    """Queued until it polls."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    device_id: ID = strawberry.field(description="dev_…")
    command: DeviceCommandInput = strawberry.field(description="What it shall do.")


@strawberry.input(description="One command.")
class DeviceCommandIdInput(MutationInput):
    """To cancel."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="cmd_…")


@strawberry.input(description="A period that the terminal shall send again.")
class DeviceBackfillInput(MutationInput):
    """By the terminal's own clock."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    device_id: ID = strawberry.field(description="dev_…")
    from_: LocalDateTime = strawberry.field(name="from", description="Its first moment, by the terminal's clock.")
    to: LocalDateTime = strawberry.field(description="Its last moment, by the terminal's clock; inclusive.")


def _devices(given: list[ID] | None) -> list[UUID] | None:
    return None if given is UNSET else [read_id("dev", text, "deviceIds") for text in given or ()]


@strawberry.input(description="A person, by PIN: created where nobody has it, changed otherwise.")
class EmployeeUpsertInput(MutationInput):
    """An absent field is unchanged, null clears."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    pin: str = strawberry.field(description="1 to 24 letters or digits; leading zeros are part of it.")
    name: str | None = strawberry.field(default=UNSET, description="At most 200 characters.")
    external_id: str | None = strawberry.field(default=UNSET, description="Your own key for this person.")
    card_number: str | None = strawberry.field(default=UNSET, description="The card they hold to a terminal.")
    privilege: EmployeePrivilege | None = strawberry.field(
        default=UNSET, description="What they may do at a terminal; null: USER."
    )
    device_ids: list[ID] | None = strawberry.field(
        default=UNSET,
        description="All the devices on which they shall be: those not named lose them. Null and the empty list: none; "
        "absent: unchanged. At most 500.",
    )

    def person(self) -> Person:
        """In the domain's words. InvalidId."""
        changes = self.changes("name", "external_id", "card_number", "privilege")
        return Person(self.pin, changes, _devices(self.device_ids))


@strawberry.input(description="One person of many.")
class EmployeeRowInput(MutationInput):
    """As EmployeeUpsertInput, without a key of its own."""

    pin: str = strawberry.field(description="1 to 24 letters or digits; each at most once in a list.")
    name: str | None = strawberry.field(default=UNSET, description="At most 200 characters.")
    external_id: str | None = strawberry.field(default=UNSET, description="Your own key for this person.")
    card_number: str | None = strawberry.field(default=UNSET, description="The card they hold to a terminal.")
    privilege: EmployeePrivilege | None = strawberry.field(
        default=UNSET, description="What they may do at a terminal; null: USER."
    )
    device_ids: list[ID] | None = strawberry.field(
        default=UNSET,
        description="All the devices on which they shall be: those not named lose them. Null and the empty list: none; "
        "absent: unchanged. At most 500.",
    )

    def person(self) -> Person:
        """In the domain's words. InvalidId."""
        changes = self.changes("name", "external_id", "card_number", "privilege")
        return Person(self.pin, changes, _devices(self.device_ids))


@strawberry.input(description="Many people at once; all or none.")
class EmployeeBulkUpsertInput(MutationInput):
    """Up to 1000."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    employees: list[EmployeeRowInput] = strawberry.field(description="At most 1000.")


@strawberry.input(description="One person.")
class EmployeeIdInput(MutationInput):
    """To forget."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="emp_…")


@strawberry.input(description="A new key.")
class ApiKeyCreateInput(MutationInput):
    """Never stronger than the key that asks."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    name: str = strawberry.field(description="What it is for; 1 to 200 characters.")
    scopes: list[str] = strawberry.field(description="What it opens, e.g. punches:read; only what your own key opens.")
    expires_at: datetime | None = strawberry.field(
        default=UNSET, description="When it stops working; never, where absent. Not after your own key."
    )


@strawberry.input(description="A key to replace.")
class ApiKeyRotateInput(MutationInput):
    """The old one works on for a while."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="key_…")
    grace_seconds: int | None = strawberry.field(
        default=86400, description="How long the old key still works: 0 to 604800."
    )


@strawberry.input(description="A token for a browser or a phone.")
class StreamTokenCreateInput(MutationInput):
    """Repeated, it makes another: so no idempotency key."""

    ttl_seconds: int | None = strawberry.field(default=900, description="Seconds until it ends, 1 to 3600.")
    site_ids: list[ID] | None = strawberry.field(
        default=UNSET, description="The only sites that exist for it, 1 to 50; all sites where absent."
    )


@strawberry.input(description="One key.")
class ApiKeyIdInput(MutationInput):
    """To revoke."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="key_…")


@strawberry.input(description="New addresses for terminals.")
class EnrollmentRotateInput(MutationInput):
    """The old ones work on for a while."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    grace_seconds: int | None = strawberry.field(
        default=86400, description="How long the old addresses still work: 0 to 604800."
    )


@strawberry.input(description="A new receiver of webhooks.")
class WebhookEndpointCreateInput(MutationInput):
    """Enabled from the start."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    url: str = strawberry.field(description="https://, on a public address.")
    description: str | None = strawberry.field(default=UNSET, description="For people; at most 500 characters.")
    event_types: list[str] | None = strawberry.field(
        default=UNSET, description="What to send, e.g. punch.created; every type where empty or absent."
    )


@strawberry.input(description="Changes of an endpoint.")
class WebhookEndpointUpdateInput(MutationInput):
    """An absent field is unchanged, null clears."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="whk_…")
    url: str | None = strawberry.field(default=UNSET, description="https://, on a public address; cannot be cleared.")
    description: str | None = strawberry.field(default=UNSET, description="For people; at most 500 characters.")
    event_types: list[str] | None = strawberry.field(
        default=UNSET, description="What to send, the whole list; every type where empty or null."
    )
    status: EndpointStatus | None = strawberry.field(
        default=UNSET, description="ENABLED or PAUSED; a paused endpoint keeps its backlog."
    )


@strawberry.input(description="One endpoint.")
class WebhookEndpointIdInput(MutationInput):
    """Delete, test."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="whk_…")


@strawberry.input(description="An endpoint whose secret to replace.")
class WebhookEndpointRotateSecretInput(MutationInput):
    """Both secrets sign for a while."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="whk_…")
    grace_seconds: int | None = strawberry.field(
        default=86400, description="How long the old secret still signs as well: 0 to 604800."
    )


@strawberry.input(description="A period to send again to one endpoint.")
class WebhookReplayInput(MutationInput):
    """All that is given must hold."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    endpoint_id: ID = strawberry.field(description="whk_…")
    since: datetime = strawberry.field(description="Events from then on, by the envelope's timestamp.")
    until: datetime | None = strawberry.field(default=UNSET, description="Events before then; now, if absent.")
    event_types: list[str] | None = strawberry.field(
        default=UNSET, description="Events of these types; absent or empty: those that the endpoint wants."
    )
    only_undelivered: bool | None = strawberry.field(
        default=False, description="Leave out what this endpoint has had already, or is about to."
    )


@strawberry.input(description="One delivery.")
class WebhookDeliveryIdInput(MutationInput):
    """To retry."""

    idempotency_key: str | None = strawberry.field(default=UNSET, description=_KEY)
    id: ID = strawberry.field(description="whd_…")
