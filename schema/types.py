"""What goes out: the contract's types over the domain's rows. `account` and `webhooks` have the others.

Most fields are plain attributes, filled once by `of`, because a computed field costs many times as much. What leads to
another row is a method that goes through a loader. A field that crosses into another scope asks for it by itself, so
that a key sees what its scopes open and nothing besides.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, TypeVar
from uuid import UUID

import strawberry
from strawberry import ID, UNSET

from app import ids
from app.domain import (
    claims,
    commands,
    devices,
    employees,
    placements,
    profiles,
    punch_feed,
    punches,
    reconciliations,
    records,
    sites,
)
from app.domain.commands import CommandStatus
from app.domain.devices import DeviceConnectionState, DeviceDialect, DeviceStatus
from app.domain.employees import EmployeePrivilege
from app.domain.placements import PlacementState
from app.domain.reconciliations import Completeness
from app.domain.tables import now
from app.paging import Asked
from protocol.adms.codes import Direction, VerifyMode
from protocol.adms.records import decode
from schema.connections import After, Before, Connection, CountedConnection, First, Last, ask, connect, connect_counted
from schema.context import Context, Info
from schema.fields import resolved
from schema.inputs import PunchFilter, PunchOrder
from schema.values import LocalDateTime

R = TypeVar("R")
Row = TypeVar("Row", devices.Device, employees.Employee)

WhichPunches = Annotated[PunchFilter | None, strawberry.argument(description="Which of them.")]
PunchesBy = Annotated[PunchOrder | None, strawberry.argument(description="In which order.")]


@strawberry.interface(description="Anything with an id of its own, to be had by `node`.")
class Node:
    """Implemented by what `queries.NODES` finds."""

    id: ID = strawberry.field(description="Opaque, and the same in webhooks and logs.")


def _once(context: Context, show: Callable[[Row], R], row: Row) -> R:
    """What `show` makes of a row, made once for all that lead to it."""
    shown = context.loaders.shown
    found: R | None = shown.get(row.id)
    if found is None:
        found = shown[row.id] = show(row)
    return found


def _device(context: Context, key: UUID, found: devices.Device | None) -> Device:
    if found is None:
        raise devices.DeviceNotFound(key)
    return _once(context, Device.of, found)


# ── devices ──────────────────────────────────────────────────────────────────────────────────────────


@strawberry.type(description="A place where devices hang.")
class Site(Node):
    """It lends its zone to devices that have none of their own."""

    id: ID = strawberry.field(description="sit_…")
    name: str = strawberry.field(description="What the place is called.")
    time_zone: str = strawberry.field(
        description="IANA name, inherited by the site's devices unless they set their own."
    )
    created_at: datetime = strawberry.field(description="When it was entered here.")
    key: strawberry.Private[UUID]

    @resolved("The devices of this site, the oldest first.")
    async def devices(
        self, info: Info, *, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> CountedConnection[Device]:
        """Open to whoever sees the site."""
        context = info.context
        context.actor.may("devices:read")
        order = devices.BY_CREATED_AT.up
        asked = ask(context, f"site.devices {self.id}", order, devices.EVERY, (first, after, last, before))
        page = await context.loaders.devices_of_sites.load((self.key, asked))

        async def count() -> int:
            return await context.loaders.device_counts.load(self.key) or 0

        return connect_counted(context, asked, page, Device.of, count)

    @classmethod
    def of(cls, row: sites.Site) -> Site:
        """From its row."""
        return cls(
            id=ID(ids.show("sit", row.id)),
            name=row.name,
            time_zone=row.time_zone,
            created_at=row.created_at,
            key=row.id,
        )


@strawberry.type(description="A record that could not be understood, kept as it came.")
class RejectedRecord(Node):
    """It was acknowledged all the same: it must not block the queue behind it."""

    id: ID = strawberry.field(description="rej_…")
    received_at: datetime = strawberry.field(description="When it arrived.")
    table: str | None = strawberry.field(description="The terminal's name for the kind of record.")
    reason: str = strawberry.field(description="Why it could not be understood.")
    device_key: strawberry.Private[UUID]
    line: strawberry.Private[bytes]

    @resolved("The record as the terminal sent it.")
    async def raw(self, info: Info) -> str:
        """As text."""
        return await _read(info.context, self.line, self.device_key)

    @classmethod
    def of(cls, row: records.RejectedRecord) -> RejectedRecord:
        """From its row."""
        return cls(
            id=ID(ids.show("rej", row.id)),
            received_at=row.received_at,
            table=row.table_name,
            reason=row.reason,
            device_key=row.device_id,
            line=row.raw,
        )


@strawberry.type(
    description="Proof of possession for a terminal on the shared address: add a user with this PIN on the terminal "
    "before expiresAt. While the claim is open the terminal is asked for nothing but that user; its answer binds the "
    "device. Not needed on the tenant's own address."
)
class DeviceClaim:
    """Open for a day from the registration."""

    challenge_pin: str = strawberry.field(description="The PIN of the user to add; the user may be removed afterwards.")
    expires_at: datetime = strawberry.field(description="When it stops working.")


@strawberry.type(description="A period of which the terminal counts more punches than it sends.")
class MissingPunches:
    """It was asked for all of it again, and counted once more."""

    from_: LocalDateTime = strawberry.field(name="from", description="The first second, by the terminal's clock.")
    to: LocalDateTime = strawberry.field(description="The last second, by the terminal's clock.")
    count: int = strawberry.field(description="How many more the terminal counts than are stored here.")


@strawberry.type(description="Whether all that a terminal holds is stored here, by counting on both sides.")
class DeviceCompleteness:
    """The last comparison; a new one begins by itself every few hours, and after the terminal was away."""

    state: Completeness = strawberry.field(description="What came out.")
    counted_at: datetime | None = strawberry.field(description="When the terminal last counted a whole period.")
    from_: LocalDateTime | None = strawberry.field(
        name="from", description="The first second of that period, by the terminal's clock."
    )
    to: LocalDateTime | None = strawberry.field(description="Its last second, by the terminal's clock.")
    reported_count: int | None = strawberry.field(description="Punches of the period, as the terminal counted.")
    stored_count: int | None = strawberry.field(description="Punches of the period that were stored here then.")
    missing: list[MissingPunches] = strawberry.field(
        description="Where it still holds more than it sends; at most 100 periods, in order."
    )
    reason: str | None = strawberry.field(
        description="Why it could not be compared, or on what COMPLETE rests where nothing was counted."
    )

    @classmethod
    def of(cls, row: reconciliations.Reconciliation) -> DeviceCompleteness:
        """From its row."""
        return cls(
            state=Completeness(row.state),
            counted_at=row.counted_at,
            from_=_local(row.window_start),
            to=_local(row.window_end),
            reported_count=row.reported,
            stored_count=row.stored,
            missing=[
                MissingPunches(from_=LocalDateTime(one.start), to=LocalDateTime(one.end), count=one.missing)
                for one in row.missing
            ],
            reason=row.reason,
        )


def _local(moment: datetime | None) -> LocalDateTime | None:
    return None if moment is None else LocalDateTime(moment)


@strawberry.type(description="A terminal.")
class Device(Node):
    """Open to devices:read; on a punch, also to punches:read, but then without what leads further."""

    id: ID = strawberry.field(description="dev_…")
    serial_number: str = strawberry.field(description="As the maker printed it; unique in the tenant while in use.")
    name: str = strawberry.field(description="What you call it.")
    status: DeviceStatus = strawberry.field(description="Whether it belongs here.")
    last_seen_at: datetime | None = strawberry.field(description="When it last called.")
    model: str | None = strawberry.field(description="As it reports itself.")
    firmware_version: str | None = strawberry.field(description="As it reports itself.")
    push_version: str | None = strawberry.field(description="The version of the protocol that it speaks.")
    dialect: DeviceDialect | None = strawberry.field(description="Which of the two protocols it speaks.")
    clock_skew_ms: int | None = strawberry.field(
        description="Device clock minus server clock at the last contact that let us measure it."
    )
    reported_user_count: int | None = strawberry.field(description="Users that the terminal last reported.")
    reported_punch_count: int | None = strawberry.field(description="Punches that the terminal last reported.")
    generation: int = strawberry.field(
        description="Which memory it has, counted from 1: a factory reset, a cleared log or another board begins a new "
        "one."
    )
    generation_started_at: datetime | None = strawberry.field(
        description="When the memory that it has now was noticed; null for the first."
    )
    created_at: datetime = strawberry.field(description="When it was first registered or seen.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")
    key: strawberry.Private[UUID]
    site_key: strawberry.Private[UUID | None]
    own_time_zone: strawberry.Private[str | None]
    row: strawberry.Private[devices.Device]
    proof: strawberry.Private[DeviceClaim | None]

    @resolved(
        "Where it hangs. Needs devices:read.",
        ahead=lambda one: None if one.site_key is None else ("sites", one.site_key),
    )
    async def site(self, info: Info) -> Site | None:
        """None when it has no site."""
        info.context.actor.may("devices:read")
        if self.site_key is None:
            return None
        found = await info.context.loaders.sites.load(self.site_key)
        return Site.of(found) if found else None

    @resolved(
        "IANA name, its own or its site's. Null only while PENDING. A change applies to punches that arrive after it.",
        ahead=lambda one: None if one.own_time_zone or one.site_key is None else ("sites", one.site_key),
    )
    async def time_zone(self, info: Info) -> str | None:
        """Its own goes first."""
        if self.own_time_zone is not None or self.site_key is None:
            return self.own_time_zone
        found = await info.context.loaders.sites.load(self.site_key)
        return found.time_zone if found else None

    @resolved(
        "What an operator should look at: clock_drift, two_sources, unknown_users, rejected_records, "
        "count_mismatch, reset_detected.",
        ahead=lambda one: ("unknown_pins", one.key),
    )
    async def flags(self, info: Info) -> list[str]:
        """What was noted on it, and what looks at its users, its records and its counts tell."""
        loaders = info.context.loaders
        strangers = await loaders.unknown_pins.load(self.key)
        rejected = await loaders.with_rejected.load(self.key)
        counted = await loaders.reconciliations.load(self.key)
        noted = devices.Noted(
            unknown_users=bool(strangers),
            rejected_records=bool(rejected),
            count_mismatch=counted is not None and counted.state == Completeness.MISSING,
        )
        return devices.flags(self.row, now(), drift=info.context.settings.clock_drift, noted=noted)

    @resolved("Whether it is in touch.")
    def connection(self, info: Info) -> DeviceConnectionState:
        """As of now."""
        return devices.connection_state(self.last_seen_at, now(), _delay(info.context))

    @resolved("While the device is PENDING: how to prove that it is yours. Needs devices:write.")
    def claim(self, info: Info) -> DeviceClaim | None:
        """None when there is nothing to prove, or no time left to."""
        info.context.actor.may("devices:write")
        if self.proof is None or self.proof.expires_at <= now():
            return None
        return self.proof

    @resolved("Punches stored here from this device.", ahead=lambda one: ("punch_counts", one.key))
    async def stored_punch_count(self, info: Info) -> int:
        """Counted for a whole page at once."""
        return await info.context.loaders.punch_counts.load(self.key) or 0

    @resolved("When stored and reported counts were last found to agree.")
    async def last_reconciled_at(self, info: Info) -> datetime | None:
        """None before they did, and for terminals that do not count."""
        row = await info.context.loaders.reconciliations.load(self.key)
        return None if row is None else row.reconciled_at

    @resolved("Whether all that it holds is stored here; null before it was first compared.")
    async def completeness(self, info: Info) -> DeviceCompleteness | None:
        """As the last comparison left it."""
        row = await info.context.loaders.reconciliations.load(self.key)
        return None if row is None else DeviceCompleteness.of(row)

    @resolved("Records that could not be understood, kept as they came; the newest first. Needs devices:read.")
    async def rejected_records(
        self, info: Info, *, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> Connection[RejectedRecord]:
        """By id, which sorts by time."""
        context = info.context
        context.actor.may("devices:read")
        window = (first, after, last, before)
        asked: Asked[None] = ask(context, f"device.rejectedRecords {self.id}", records.BY_ID.down, None, window)
        page = await context.loaders.rejected_of_devices.load((self.key, asked))
        return connect(context, asked, page, RejectedRecord.of)

    @resolved("PINs that exist on the terminal and not here; at most 1000, in order. Needs employees:read.")
    async def unknown_pins(self, info: Info) -> list[str]:
        """As the terminal last said; `employeeUpsert` makes one known."""
        info.context.actor.may("employees:read")
        return await info.context.loaders.unknown_pins.load(self.key) or []

    @resolved("What it was told to do; the newest first. Needs devices:read.")
    async def commands(
        self, info: Info, *, first: First = UNSET, after: After = UNSET, last: Last = UNSET, before: Before = UNSET
    ) -> Connection[DeviceCommand]:
        """One statement for a whole page of devices."""
        context = info.context
        context.actor.may("devices:read")
        window = (first, after, last, before)
        asked = ask(context, f"device.commands {self.id}", commands.BY_ID.down, commands.EVERY, window)
        page = await context.loaders.commands_of_devices.load((self.key, asked))
        return connect(context, asked, page, DeviceCommand.of)

    @resolved(
        "Punches of this device; the newest first unless ordered otherwise. Needs punches:read.",
        ahead=lambda one, context, **given: (
            "punches_of_devices",
            (one.key, _wanted(context, f"device.punches {one.id}", **given)),
        ),
        shown=lambda context, key, found: connect(context, key[1], found, Punch.of),
    )
    async def punches(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: WhichPunches = UNSET,
        order_by: PunchesBy = UNSET,
    ) -> Connection[Punch]:
        """One statement for a whole page of devices."""
        context = info.context
        asked = _wanted(
            context,
            f"device.punches {self.id}",
            first=first,
            after=after,
            last=last,
            before=before,
            filter=filter,
            order_by=order_by,
        )
        page = await context.loaders.punches_of_devices.load((self.key, asked))
        return connect(context, asked, page, Punch.of)

    @classmethod
    def of(cls, row: devices.Device) -> Device:
        """From its row."""
        return cls(
            id=ID(ids.show("dev", row.id)),
            serial_number=row.serial_number,
            name=row.name,
            status=DeviceStatus(row.status),
            last_seen_at=row.last_seen_at,
            model=row.model,
            firmware_version=row.firmware_version,
            push_version=row.push_version,
            dialect=DeviceDialect(row.dialect) if row.dialect else None,
            clock_skew_ms=row.clock_skew_ms,
            reported_user_count=row.reported_user_count,
            reported_punch_count=row.reported_punch_count,
            row=row,
            generation=row.generation,
            generation_started_at=row.generation_at,
            created_at=row.created_at,
            updated_at=row.updated_at,
            key=row.id,
            site_key=row.site_id,
            own_time_zone=row.time_zone,
            proof=_proof(row),
        )


def _proof(row: devices.Device) -> DeviceClaim | None:
    expires_at = claims.open_until(row, now())
    return (
        None
        if expires_at is None or row.claim_pin is None
        else DeviceClaim(challenge_pin=row.claim_pin, expires_at=expires_at)
    )


# ── people and punches ───────────────────────────────────────────────────────────────────────────────


@strawberry.type(description="Something that a terminal shall do, at its next poll.")
class DeviceCommand(Node):
    """Open to devices:read."""

    id: ID = strawberry.field(description="cmd_…")
    kind: str = strawberry.field(description="What it is, named as in DeviceCommandInput: reboot, syncTime, …")
    status: CommandStatus = strawberry.field(description="How far it has come.")
    return_code: int | None = strawberry.field(description="What the terminal answered: 0 and above is success.")
    output: str | None = strawberry.field(
        description="What it said beside that, a line each, or what its return code means; at most 8192 characters."
    )
    created_at: datetime = strawberry.field(description="When it was queued.")
    sent_at: datetime | None = strawberry.field(description="When it was last handed out.")
    completed_at: datetime | None = strawberry.field(description="When it ended, in whatever way.")
    expires_at: datetime = strawberry.field(description="Until when it may be handed out.")
    device_key: strawberry.Private[UUID]

    @resolved(
        "Who shall do it.",
        ahead=lambda one: ("devices", one.device_key),
        shown=_device,
    )
    async def device(self, info: Info) -> Device:
        """Devices are never deleted, so it is there."""
        return _device(info.context, self.device_key, await info.context.loaders.devices.load(self.device_key))

    @classmethod
    def of(cls, row: commands.DeviceCommand) -> DeviceCommand:
        """From its row."""
        return cls(
            id=ID(ids.show("cmd", row.id)),
            kind=row.kind,
            status=CommandStatus(row.status),
            return_code=row.return_code,
            output=row.output,
            created_at=row.created_at,
            sent_at=row.sent_at,
            completed_at=row.completed_at,
            expires_at=row.expires_at,
            device_key=row.device_id,
        )


@strawberry.type(description="One person on one terminal: a wish, and whether it has come true.")
class Placement:
    """Carried out whenever the terminal polls, however late."""

    state: PlacementState = strawberry.field(description="How far it has come.")
    reason: str | None = strawberry.field(description="Why it failed: the terminal's return code and what it means.")
    updated_at: datetime = strawberry.field(description="When its state last changed.")
    device_key: strawberry.Private[UUID]
    command_key: strawberry.Private[UUID | None]

    @resolved(
        "The terminal.",
        ahead=lambda one: ("devices", one.device_key),
        shown=_device,
    )
    async def device(self, info: Info) -> Device:
        """Devices are never deleted, so it is there."""
        return _device(info.context, self.device_key, await info.context.loaders.devices.load(self.device_key))

    @resolved("What the terminal was last told about it; null before that. Needs devices:read.")
    async def last_command(self, info: Info) -> DeviceCommand | None:
        """One command may be about many placements: a reading of everybody."""
        info.context.actor.may("devices:read")
        if self.command_key is None:
            return None
        found = await info.context.loaders.commands.load(self.command_key)
        return DeviceCommand.of(found) if found else None

    @classmethod
    def of(cls, row: placements.Placement) -> Placement:
        """From its row."""
        return cls(
            state=PlacementState(row.state),
            reason=row.reason,
            updated_at=row.updated_at,
            device_key=row.device_id,
            command_key=row.command_id,
        )


@strawberry.type(description="A person whom terminals know by a PIN.")
class Employee(Node):
    """Open to employees:read; on a punch, also to punches:read."""

    id: ID = strawberry.field(description="emp_…")
    pin: str = strawberry.field(
        description="The number by which terminals know this person; text, leading zeros kept; unique in the tenant."
    )
    name: str | None = strawberry.field(description="What they are called.")
    external_id: str | None = strawberry.field(description="The caller's own key for this person.")
    privilege: EmployeePrivilege = strawberry.field(description="What they may do at a terminal.")
    created_at: datetime = strawberry.field(description="When they were entered here.")
    updated_at: datetime = strawberry.field(description="When they were last changed.")
    card: strawberry.Private[str | None]

    @resolved("The number on their card. Needs employees:read.")
    def card_number(self, info: Info) -> str | None:
        """A card number opens doors, so the name on a punch does not bring it along."""
        info.context.actor.may("employees:read")
        return self.card

    @resolved(
        "Devices on which this person should exist, and whether the terminal has confirmed it. Needs employees:read."
    )
    async def placements(self, info: Info) -> list[Placement]:
        """One statement for a whole page of people."""
        info.context.actor.may("employees:read")
        return [Placement.of(row) for row in await info.context.loaders.placements.load(self.pin) or ()]

    @resolved(
        "Punches with this PIN; the newest first unless ordered otherwise. Needs punches:read.",
        ahead=lambda one, context, **given: (
            "punches_of_pins",
            (one.pin, _wanted(context, f"employee.punches {one.id}", **given)),
        ),
        shown=lambda context, key, found: connect(context, key[1], found, Punch.of),
    )
    async def punches(
        self,
        info: Info,
        *,
        first: First = UNSET,
        after: After = UNSET,
        last: Last = UNSET,
        before: Before = UNSET,
        filter: WhichPunches = UNSET,
        order_by: PunchesBy = UNSET,
    ) -> Connection[Punch]:
        """One statement for a whole page of people."""
        context = info.context
        asked = _wanted(
            context,
            f"employee.punches {self.id}",
            first=first,
            after=after,
            last=last,
            before=before,
            filter=filter,
            order_by=order_by,
        )
        page = await context.loaders.punches_of_pins.load((self.pin, asked))
        return connect(context, asked, page, Punch.of)

    @classmethod
    def of(cls, row: employees.Employee) -> Employee:
        """From its row."""
        return cls(
            id=ID(ids.show("emp", row.id)),
            pin=row.pin,
            name=row.name,
            external_id=row.external_id,
            privilege=EmployeePrivilege(row.privilege),
            created_at=row.created_at,
            updated_at=row.updated_at,
            card=row.card_number,
        )


@strawberry.type(description="One record of a terminal: somebody was there at that time.")
class Punch(Node):
    """Everything about it is opened by punches:read."""

    id: ID = strawberry.field(description="pun_…")
    pin: str = strawberry.field(description="The number that was entered or recognised; text, leading zeros kept.")
    punched_at: datetime = strawberry.field(description="The instant: localTime read in timeZone.")
    local_time: LocalDateTime = strawberry.field(description="What the terminal's clock showed.")
    time_zone: str = strawberry.field(description="IANA name of the zone in which localTime was read.")
    received_at: datetime = strawberry.field(description="When it arrived here.")
    direction: Direction = strawberry.field(description="What it means.")
    state_code: int | None = strawberry.field(
        description="The terminal's own number for the punch state; 255 is normal on some models; null when it sent "
        "none."
    )
    verify_mode: VerifyMode = strawberry.field(description="How the person proved who they are.")
    verify_code: int | None = strawberry.field(
        description="The terminal's own number for how it verified; null when it sent none."
    )
    work_code: str | None = strawberry.field(description="What the person typed in as the kind of work.")
    temperature_celsius: float | None = strawberry.field(description="Body temperature, where it is measured.")
    mask_worn: bool | None = strawberry.field(description="Whether a mask was seen, where the terminal looks for one.")
    buffered: bool = strawberry.field(
        description="Arrived as part of a backlog (received more than two minutes after it was made)."
    )
    flags: list[str] = strawberry.field(
        description="What makes it doubtful: clock_drift, impossible_time, two_sources. Stored and delivered all the "
        "same."
    )
    key: strawberry.Private[UUID]
    device_key: strawberry.Private[UUID]
    line: strawberry.Private[bytes | None]

    @resolved(
        "The terminal.",
        ahead=lambda one: ("devices", one.device_key),
        shown=_device,
    )
    async def device(self, info: Info) -> Device:
        """Devices are never deleted, so it is there."""
        return _device(info.context, self.device_key, await info.context.loaders.devices.load(self.device_key))

    @resolved(
        "Null while no employee has this PIN; attached when one is created.",
        ahead=lambda one: ("employees_by_pin", one.pin),
        shown=lambda context, _, found: _once(context, Employee.of, found) if found else None,
    )
    async def employee(self, info: Info) -> Employee | None:
        """Whoever has the PIN now."""
        found = await info.context.loaders.employees_by_pin.load(self.pin)
        return _once(info.context, Employee.of, found) if found else None

    @resolved("The record as the terminal sent it.")
    async def raw(self, info: Info) -> str:
        """Feeds carry no raw lines, so theirs are fetched when asked for."""
        line = self.line if self.line is not None else await info.context.loaders.raw_punches.load(self.key)
        return await _read(info.context, line or b"", self.device_key)

    @classmethod
    def of(cls, view: punches.PunchView) -> Punch:
        """From the table or from a feed."""
        return cls(
            id=ID(ids.show("pun", view.id)),
            pin=view.pin,
            punched_at=view.punched_at,
            local_time=LocalDateTime(view.local_time),
            time_zone=view.time_zone,
            received_at=view.received_at,
            direction=view.direction,
            state_code=view.state_code,
            verify_mode=view.verify_mode,
            verify_code=view.verify_code,
            work_code=view.work_code,
            temperature_celsius=view.temperature_celsius,
            mask_worn=view.mask_worn,
            buffered=view.buffered,
            flags=list(view.flags),
            key=view.id,
            device_key=view.device_id,
            line=view.raw,
        )


@strawberry.type(
    description="A slice of the tenant's feed, in commit order. Positions number everything that happens in the "
    "tenant; a punch feed skips what is not a punch or does not match its filter. `previousCursor` equals the cursor "
    "of the batch before it, and of the first batch the `after` that was asked for (null without): if it does not, "
    "resubscribe with your last cursor. Process, store `cursor`, go on. An employee attached later does not send a "
    "punch again."
)
class PunchBatch:
    """The same for pull and push."""

    cursor: str = strawberry.field(description="Everything up to here has been seen: store it, and go on from it.")
    previous_cursor: str | None = strawberry.field(description="Where this batch begins.")
    punches: list[Punch] = strawberry.field(description="In commit order; may be empty.")
    caught_up: bool = strawberry.field(description="True when nothing newer existed at this moment.")
    head_lag: int = strawberry.field(description="How many feed positions are still ahead.")

    @classmethod
    def of(cls, context: Context, batch: punch_feed.PunchBatch, previous: str | None) -> PunchBatch:
        """`previous` is the cursor of the batch before it, or the one that was asked for."""
        return cls(
            cursor=context.cursors.write(context.actor.tenant_id, batch.position),
            previous_cursor=previous,
            punches=[Punch.of(view) for view in batch.punches],
            caught_up=batch.caught_up,
            head_lag=batch.lag,
        )


def ask_punches(
    context: Context,
    name: str,
    filter: PunchFilter | None,
    order_by: PunchOrder | None,
    window: tuple[int | None, str | None, int | None, str | None],
) -> Asked[punches.Wanted]:
    """The arguments of a list of punches, checked; the newest first unless ordered otherwise."""
    wanted = filter.wanted() if filter else punches.EVERY
    return ask(context, name, order_by.order() if order_by else punches.BY_PUNCHED_AT.down, wanted, window)


def _wanted(
    context: Context,
    name: str,
    *,
    first: int | None = UNSET,
    after: str | None = UNSET,
    last: int | None = UNSET,
    before: str | None = UNSET,
    filter: PunchFilter | None = UNSET,
    order_by: PunchOrder | None = UNSET,
) -> Asked[punches.Wanted]:
    """The same for whom punches are somebody's."""
    context.actor.may("punches:read")
    return ask_punches(context, name, filter, order_by, (first, after, last, before))


def online_since(context: Context) -> datetime:
    """Devices last seen from then on are online."""
    return now() - _delay(context) - devices.PATIENCE


async def _read(context: Context, line: bytes, device_key: UUID) -> str:
    """A terminal's line as text. Its code page is asked for only where the line is no UTF-8, which is rare."""
    try:
        return line.decode()
    except UnicodeDecodeError:
        device = await context.loaders.devices.load(device_key)
        page = profiles.code_page(device.language, device.charset) if device is not None else None
        return decode(line, page)[0]


def _delay(context: Context) -> timedelta:
    return timedelta(seconds=context.settings.device_delay_seconds)
