"""Where terminals dial in: `/iclock/…` on the shared address, on a tenant's own URL and on its own host name.

A raw ASGI callable, because this is the hot path. The body is read as bytes whatever the content type says, counted as
it comes; nothing is parsed by a framework, nothing redirected. `OK` leaves only after the commit; every other answer is
plain text that does not begin with OK, so that the terminal keeps its records and comes back.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from time import monotonic
from typing import Any, Final
from uuid import UUID

import structlog

from app import telemetry
from app.database import Database
from app.domain import answers, bindings, claims, commands, ingest, placements, presence, profiles, reconciliations
from app.domain.answers import Part
from app.domain.bindings import Contact
from app.domain.claims import Claim
from app.domain.commands import Recipient
from app.domain.devices import Address
from app.domain.events import Logged
from app.domain.ingest import KnownDevice, Reading, Rejected
from app.domain.profiles import Glimpse
from app.domain.reconciliations import Schedule
from app.errors import ServiceUnavailable
from app.settings import Settings
from app.vault import Vault
from app.web.answers import Answers
from app.web.intake import Intake, Ring
from app.web.middleware import source
from protocol.adms import records, replies, security
from protocol.adms.codes import version
from protocol.adms.commands import Check, QueryUsers, write
from protocol.adms.errors import AdmsError
from protocol.adms.records import option, read_options
from protocol.adms.requests import (
    CommandReport,
    ConfigurationRequest,
    Hello,
    Poll,
    Registration,
    Request,
    TableUpload,
    TimeRequest,
    Unknown,
    Upload,
    endpoint_of,
    read_request,
)

log = structlog.get_logger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: How long a device's binding is believed, and how much longer while it is being asked anew: suspending a device takes
#: effect within the sum. Without the second, all terminals of a rush would wait for the database at once.
_BELIEVED_SECONDS: Final = 2.0
_STILL_BELIEVED_SECONDS: Final = 2.0
_KNOWN_BOUND: Final = 20_000
_NOTE_SECONDS: Final = 1.0
_ERROR_DELAY: Final = 30
_PIECE_BYTES: Final = 64 * 1024

_NOT_BOUND: Final = (403, b"This terminal is not known here.")
#: What the security dialect takes for a refused registration.
_NOT_REGISTERED: Final = (406, b"This terminal is not known here.")
#: Its handshake before it registered: it goes on to do so.
_REGISTER: Final = b"OK"
_SECURITY_VERSION: Final = "3.0.1"
_TOO_LARGE: Final = (413, b"Too large.")
_TOO_MANY: Final = (429, b"Too many requests.")
_UNAVAILABLE: Final = (503, b"Try again.")
_UNREADABLE: Final = (400, b"Not a terminal's request.")
_ENCODED: Final = (415, b"Content-Encoding is not supported.")
Answer = tuple[int, bytes]


@dataclass(slots=True)
class _Believed:
    device: KnownDevice | None
    until: float
    # A token bucket: what is left, and when that was.
    tokens: float
    filled_at: float


class Iclock:
    """The terminals' edge of one process."""

    def __init__(
        self,
        settings: Settings,
        db: Database,
        vault: Vault,
        *,
        intake: Intake,
        ring: Ring,
        moved: Callable[[UUID], None] = lambda _tenant_id: None,
    ) -> None:
        self._db, self._vault = db, vault
        self._intake, self._ring, self._settings = intake, ring, settings
        #: Told of a tenant whose commands moved on.
        self._moved = moved
        self._schedule = Schedule(
            timedelta(hours=settings.reconcile_hours),
            timedelta(days=settings.reconcile_days),
            timedelta(seconds=settings.reconcile_settle_seconds),
        )
        self._drift = settings.clock_drift
        room = settings.device_body_bytes
        self.answers = Answers(db, vault, intake, self._take_rows, room=room, drift=self._drift)
        self._believed: OrderedDict[tuple[str, str], _Believed] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Task[KnownDevice | None]] = {}
        self._contacts: dict[tuple[UUID, UUID], Contact] = {}
        self._noting: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write down contacts."""
        self._noting = asyncio.create_task(self._note_contacts(), name="iclock-contacts")
        await self.answers.start()

    async def stop(self) -> None:
        """Write down the last contacts."""
        await self.answers.stop()
        if self._noting is not None:
            self._noting.cancel()
            await asyncio.gather(self._noting, return_exceptions=True)
        await self._note()

    def matches(self, scope: Scope) -> bool:
        """Whether a request is a terminal's."""
        path: str = scope["path"]
        return path.startswith("/iclock/") or (path.startswith("/d/") and "/iclock/" in path)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; without an answer when the terminal hung up before its body ended."""
        headers = dict(scope["headers"])
        try:
            body = await self._read_body(headers, receive)
            if body is None:
                return
            if isinstance(body, bytes):
                answer = await self._answer(scope, headers, body)
            else:
                answer = body
                if answer is _TOO_LARGE:
                    await self._tell_too_large(scope, headers)
        except ServiceUnavailable:
            answer = _UNAVAILABLE
        except Exception:
            log.exception("iclock_failed", path=endpoint_of(scope["path"].rpartition("/iclock/")[2]))
            answer = _UNAVAILABLE
        status, text = answer
        telemetry.UPLOADS.labels(str(status)).inc()
        length = str(len(text)).encode()
        await send(
            {
                "type": "http.response.start",
                "status": status,
                "headers": [(b"content-type", b"text/plain"), (b"content-length", length)],
            }
        )
        await send({"type": "http.response.body", "body": text})

    async def _read_body(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes | Answer | None:
        bound = self._settings.device_body_bytes
        declared = headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > bound:
            return _TOO_LARGE
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            return _ENCODED
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            return body if len(body) <= bound else _TOO_LARGE
        chunks, size = [], 0
        while True:
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > bound:
                return _TOO_LARGE
            if not message.get("more_body"):
                return b"".join(chunks)
            message = await receive()

    async def _answer(  # noqa: PLR0911  refusals
        self, scope: Scope, headers: Mapping[bytes, bytes], body: bytes
    ) -> Answer:
        prefix, _, tail = scope["path"].rpartition("/iclock/")
        try:
            request = read_request(scope["method"], endpoint_of(tail), scope["query_string"], body)
        except AdmsError:
            return _UNREADABLE
        address = self._address(prefix, headers)
        if not self._allow(address, request.serial):
            return _TOO_MANY
        device = await self._device(address, request.serial)
        if device is not None:
            caller = self._source(scope, address, prefix)
            if caller != device.watched.source:
                await self._look(device, Glimpse(datetime.now(UTC), caller))
            return 200, await self._serve(device, request)
        if not address and self._settings.shared_address == "challenge":
            answer = await self._challenge(request)
            if answer is not None:
                return answer
        match request:
            case Hello():
                return 200, await self._greet_stranger(address, request)
            case Registration():
                return _NOT_REGISTERED
        return _NOT_BOUND

    async def _tell_too_large(self, scope: Scope, headers: Mapping[bytes, bytes]) -> None:
        """The terminal sends the same for ever, and only its owner can change that: a rejected record tells them."""
        prefix, _, tail = scope["path"].rpartition("/iclock/")
        try:
            request = read_request(scope["method"], endpoint_of(tail), scope["query_string"], b"")
        except AdmsError:
            return
        address = self._address(prefix, headers)
        if not self._allow(address, request.serial):
            return
        device = await self._device(address, request.serial)
        if device is None:
            return
        table = getattr(request, "table", endpoint_of(tail)[:64] or "upload")
        bound, declared = self._settings.device_body_bytes, headers.get(b"content-length", b"in chunks")[:20]
        reason = f"an upload over the bound of {bound} bytes (DEVICE_BODY_BYTES): refused with 413, and not stored"
        raw = b"%b table=%b stamp=%b length=%b" % (
            scope["method"].encode(),
            table.encode(),
            (getattr(request, "stamp", None) or "").encode(),
            declared,
        )
        log.warning("upload_too_large", tenant=str(device.tenant_id), device=str(device.device.id), table=table)
        # Sent again it is the same record.
        await self._intake.submit(Reading(device, datetime.now(UTC), rejected=[Rejected(table, reason, raw)]))

    def _address(self, prefix: str, headers: Mapping[bytes, bytes]) -> str:
        """The secret part of the address that was dialled: a token, a label, or nothing for the shared one."""
        if prefix.startswith("/d/"):
            return prefix[3:]
        domain = self._settings.device_domain
        if domain:
            host = headers.get(b"host", b"").decode("latin-1").partition(":")[0].lower()
            label, _, rest = host.partition(".")
            if rest == domain.partition(":")[0].lower():
                return label
        return ""

    def _source(self, scope: Scope, address: str, prefix: str) -> str:
        """Where a terminal calls from, and by which kind of address."""
        way = "url" if prefix.startswith("/d/") else "host" if address else "shared"
        return f"{source(scope, self._settings.trusted_proxies)} {way}"

    def _allow(self, address: str, serial: str) -> bool:
        """Take a token from the terminal's bucket."""
        believed = self._believed.get((address, serial))
        if believed is None:
            return True
        at = monotonic()
        refilled = believed.tokens + (at - believed.filled_at) * self._settings.device_rate
        believed.tokens, believed.filled_at = min(refilled, self._settings.device_burst), at
        if believed.tokens < 1:
            return False
        believed.tokens -= 1
        return True

    async def _device(self, address: str, serial: str) -> KnownDevice | None:
        key = (address, serial)
        believed = self._believed.get(key)
        at = monotonic()
        if believed is not None and believed.until > at:
            return believed.device
        # Requests of one terminal that arrive together ask once.
        asking = self._asking.get(key)
        if asking is None:
            asking = self._asking[key] = asyncio.create_task(self._ask(address, serial))
            asking.add_done_callback(partial(self._asked, key))
        if believed is not None and believed.device and believed.until + _STILL_BELIEVED_SECONDS > at:
            return believed.device
        return await asyncio.shield(asking)

    def _asked(self, key: tuple[str, str], asking: asyncio.Task[KnownDevice | None]) -> None:
        self._asking.pop(key, None)
        if not asking.cancelled() and (error := asking.exception()) and not isinstance(error, ServiceUnavailable):
            log.error("iclock_ask_failed", error=type(error).__name__)

    async def _ask(self, address: str, serial: str) -> KnownDevice | None:
        device = await self._knock(address, serial)
        believed = self._believed.pop((address, serial), None)
        if believed is None:
            believed = _Believed(device, 0, self._settings.device_burst, monotonic())
        believed.device, believed.until = device, monotonic() + _BELIEVED_SECONDS
        self._believed[address, serial] = believed
        while len(self._believed) > _KNOWN_BOUND:
            self._believed.popitem(last=False)
        return device

    async def _knock(self, address: str, serial: str) -> KnownDevice | None:
        tenant_id = await self._tenant(address, serial)
        if tenant_id is None:
            return None
        kind = Address.OWN if address else Address.SHARED
        async with self._db.across("ingest", [tenant_id]) as connection:
            came = await bindings.knock(connection, tenant_id, serial, kind)
        self._ring(came.logged)
        return came.device

    async def _tenant(self, address: str, serial: str) -> UUID | None:
        mode = self._settings.shared_address
        if not address and mode == "off":
            return None
        async with self._db.across("lookup") as connection:
            if address:
                return await bindings.tenant_of_address(connection, self._vault.recognise(address))
            return await bindings.tenant_of_serial(connection, serial, approve=mode == "approve")

    async def _greet_stranger(self, address: str, request: Hello) -> bytes:
        """A handshake that asks for no data and leaves the terminal's clock alone."""
        if _speaks_security(request, None):
            return _REGISTER
        tenant_id = await self._tenant(address, request.serial)
        if tenant_id is not None:
            async with self._db.across("ingest", [tenant_id]) as connection:
                await bindings.mute(connection, tenant_id, request.serial)
        return replies.options_block(
            request.serial, stamps={}, time_zone_offset=None, delay=60, error_delay=60, ask_for_data=False
        )

    async def _challenge(self, request: Request) -> Answer | None:
        """Ask for the users that would prove a claim, and look at those that come; None where nobody waits."""
        uploads = isinstance(request, Upload) and request.table in _USERS and len(request.body) <= _CLAIM_BYTES
        if not uploads and not isinstance(request, Hello | Poll):
            return None
        async with self._db.across("lookup") as connection:
            waiting = await claims.waiting(connection, request.serial)
        if not waiting:
            return None
        match request:
            case Hello():
                if _speaks_security(request, None):
                    return None
                return 200, replies.options_block(
                    request.serial,
                    stamps={},
                    time_zone_offset=None,
                    delay=self._settings.device_delay_seconds,
                    error_delay=_ERROR_DELAY,
                    ask_for_data=False,
                    ask_for_users=True,
                )
            case Poll():
                # One after the other, whichever process is asked.
                turn = int(datetime.now(UTC).timestamp() / self._settings.device_delay_seconds) % len(waiting)
                return 200, write(str(turn + 1), QueryUsers(waiting[turn].pin))
            case Upload():
                lines = records.read_tagged(request.table, request.body).records
                pins = [line.pin for line in lines if isinstance(line, records.UserInfo) and line.pin]
                if pins:
                    await self._try_claims(request.serial, waiting, pins)
        # Refused even when it proved something: it is sent again, and heard then.
        return _NOT_BOUND

    async def _try_claims(self, serial: str, waiting: list[Claim], pins: list[str]) -> None:
        claim = claims.proven(waiting, pins)
        if claim is None:
            async with self._db.across("ingest", [claim.tenant_id for claim in waiting]) as connection:
                await claims.fail(connection, waiting)
            return
        async with self._db.across("ingest", [claim.tenant_id]) as connection:
            logged = await claims.bind(connection, claim)
        self._ring(logged)
        if (believed := self._believed.get(("", serial))) is not None:
            believed.until = 0

    async def _serve(self, device: KnownDevice, request: Request) -> bytes:  # noqa: PLR0911  one for each kind
        received_at = datetime.now(UTC)
        match request:
            case Upload():
                return await self._take(device, request, received_at)
            case TableUpload():
                return await self._take_rows(device, request, received_at)
            case Hello():
                return await self._greet(device, request, received_at)
            case Registration():
                return await self._register(device, request, received_at)
            case ConfigurationRequest():
                return await self._configure(device, received_at)
            case TimeRequest(encoded=True):
                offset = _offset(device, received_at)
                self._met(device, Contact(received_at, facts=self._told(device, offset)))
                return security.time_reply(received_at.replace(tzinfo=None), offset)
            case Poll(info=info):
                facts = {
                    "firmware_version": info and info.firmware,
                    "reported_user_count": info and info.users,
                    "reported_punch_count": info and info.attlogs,
                }
                await self._tell_of_itself(device, received_at, facts)
                if device.muted:
                    return write("1", Check())
                await self._turn_clock(device, received_at)
                return await self._hand_out(device, received_at, info.users if info else None) or replies.ok()
            case TimeRequest():
                self._met(device, Contact(received_at))
                return replies.time_reply(received_at.astimezone(device.zone))
            case CommandReport():
                await self._settle(device, request, received_at)
            case Unknown(method=method, endpoint=endpoint, query=query, body=body):
                await self._keep(device, received_at, f"{method} {endpoint}"[:64], query + b"\n" + body)
            case _:
                self._met(device, Contact(received_at))
        return replies.ok()

    async def _take(self, device: KnownDevice, upload: Upload, received_at: datetime) -> bytes:
        # A backlog of days goes piece by piece: reading it at once would hold up every other terminal, and storing it
        # at once would outlast the statement's deadline. Cut short, nothing is acknowledged; what the earlier pieces
        # stored is recognised when it comes again.
        count: int | None = None
        reading: Reading | None = None
        for body in records.pieces(upload.body, _PIECE_BYTES) if upload.table in _LONG else (upload.body,):
            reading = ingest.read(device, replace(upload, body=body), received_at, drift=self._drift)
            await self._intake.submit(reading)
            telemetry.RECORDS.labels("read").inc(len(reading.punches))
            telemetry.RECORDS.labels("rejected").inc(len(reading.rejected))
            if reading.count is not None:
                count = (count or 0) + reading.count
        if upload.table == "ATTLOG":
            count = count or 0
        contact = Contact(received_at, facts=_dialect(device, _PROVES.get(upload.table)))
        if upload.stamp:
            contact.stamps[upload.table] = upload.stamp
        if reading is not None:
            await self._learn(device, reading, contact)
        if upload.table == "OPTIONS":
            await self._tell_of_itself(device, received_at, _facts(read_options(upload.body)))
        self._met(device, contact)
        return replies.ok(count)

    async def _learn(self, device: KnownDevice, reading: Reading, contact: Contact) -> None:
        """What stored records tell of the terminal's clock and of its memory."""
        known = device.watched
        if reading.measure is not None:
            if reading.measure.skew_ms is not None:
                known.clock_skew_ms = contact.facts["clock_skew_ms"] = reading.measure.skew_ms
            if reading.measure.hint_ms is not None:
                known.clock_hint_ms, known.clock_hint_at = reading.measure.hint_ms, reading.received_at
                contact.facts |= {"clock_hint_ms": known.clock_hint_ms, "clock_hint_at": known.clock_hint_at}
        if reading.charset is not None:
            known.charset = contact.facts["charset"] = reading.charset
        if reading.mark is not None and reading.mark_at is not None and reading.mark < 2**63:
            if known.mark is not None and reading.mark < known.mark:
                await self._look(device, Glimpse(reading.received_at, mark=reading.mark, mark_at=reading.mark_at))
            if known.mark is None or reading.mark >= known.mark:
                known.mark, known.mark_at = reading.mark, reading.mark_at
                contact.facts |= {"mark": known.mark, "mark_at": known.mark_at}

    async def _tell_of_itself(self, device: KnownDevice, received_at: datetime, facts: dict[str, Any]) -> None:
        """Note what a terminal says it is and holds."""
        punches = facts.get("reported_punch_count")
        if punches is not None:
            await self._look(device, Glimpse(received_at, punches=punches))
            device.watched.punches = punches
        self._met(device, Contact(received_at, facts=facts))

    async def _look(self, device: KnownDevice, seen: Glimpse) -> None:
        """Compare a contact with what is known; only what is news goes to the database, and before the answer."""
        if not profiles.is_news(device.watched, seen):
            return
        recipient, key = _recipient(device), (device.tenant_id, device.device.id)
        logged: Sequence[Logged] = ()
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            numbers = seen.mark is not None or seen.punches is not None
            pending = self._contacts.pop(key, None) if numbers else None
            if pending is not None:  # to compare numbers, the row has to know those that we know
                logged = await presence.note(connection, {key: pending})
            known, anew = await profiles.look(connection, device.tenant_id, device.device.id, seen)
            if anew and device.dialect != "SECURITY":
                # It has been told the mark of its former memory, and may be holding back what lies below it.
                await commands.add(connection, recipient, "check", {})
        self._ring(logged)
        if anew:
            log.warning("memory_began_anew", tenant=str(device.tenant_id), device=str(device.device.id))
        device.watched.follow(known, numbers=numbers)

    async def _turn_clock(self, device: KnownDevice, received_at: datetime) -> None:
        """Where the clocks went forward or back: the option that a terminal was told knows no daylight saving."""
        told, offset = device.watched.told_offset, _offset(device, received_at)
        if told is None or told == offset:
            return
        recipient = _recipient(device)
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            if await profiles.turn(connection, device.tenant_id, device.device.id, told, offset):
                if device.dialect != "SECURITY":
                    await commands.add(connection, recipient, "check", {})
                await commands.add(connection, recipient, "syncTime", {})
        device.watched.told_offset = offset

    def _told(self, device: KnownDevice, offset: int) -> dict[str, Any]:
        device.watched.told_offset = offset
        return {"told_offset": offset}

    async def _take_rows(
        self, device: KnownDevice, upload: TableUpload, received_at: datetime, packets: Sequence[Part] = ()
    ) -> bytes:
        """Rows as they came, or as `packets` were joined, which are then done with."""
        if upload.packet is not None:
            self._met(device, Contact(received_at, facts=_dialect(device, "SECURITY")))
            return await self.answers.keep(device, upload, received_at)
        count = 0
        for body in records.pieces(upload.body, _PIECE_BYTES):
            reading = ingest.read(device, replace(upload, body=body), received_at, drift=self._drift)
            await self._intake.submit(reading)
            telemetry.RECORDS.labels("read").inc(len(reading.punches))
            telemetry.RECORDS.labels("rejected").inc(len(reading.rejected))
            count += reading.count or 0
        if upload.kind == "options":
            await self._tell_of_itself(device, received_at, _facts(read_options(upload.body)))
        self._met(device, Contact(received_at, facts=_dialect(device, "SECURITY")))
        if upload.command_id is not None or packets:
            # Some units report on a query in no other way.
            result = security.query_result(upload.command_id or "", upload.count or count)
            await self._settle(device, CommandReport(upload.serial, (result,), b""), received_at, packets)
        return security.table_reply(upload.table, count if upload.count is None else upload.count)

    async def _keep(self, device: KnownDevice, received_at: datetime, table: str, body: bytes) -> None:
        """Bytes that mean nothing to us yet: kept, acknowledged."""
        if body.strip():
            reading = ingest.read(device, Upload(device.device.serial_number, table, None, body), received_at)
            await self._intake.submit(reading)
        self._met(device, Contact(received_at))

    async def _hand_out(self, device: KnownDevice, received_at: datetime, users: int | None) -> bytes | None:
        """The line of the next command, after the commit that leases it."""
        recipient = _recipient(device)
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            if users is not None:
                await placements.compare(connection, recipient, users)
            if not await reconciliations.waits(connection, recipient):
                return None
            if not await commands.waits(connection, recipient):
                await placements.plan(connection, recipient)
                if not await commands.waits(connection, recipient):
                    await reconciliations.plan(connection, recipient, received_at, self._schedule)
            handed = await commands.hand_out(connection, recipient, received_at)
        self._ring(handed.logged)
        if handed.line is not None:
            self._moved(device.tenant_id)
        return handed.line

    async def _settle(
        self, device: KnownDevice, report: CommandReport, received_at: datetime, packets: Sequence[Part] = ()
    ) -> None:
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            if packets:
                await answers.read(connection, device.tenant_id, device.device.id, packets)
            settled = await commands.settle(connection, _recipient(device), report.results)
            await placements.follow(connection, _recipient(device), settled.ended)
            await reconciliations.follow(connection, _recipient(device), settled.ended, self._schedule)
        self._ring(settled.logged)
        if settled.ended:
            self._moved(device.tenant_id)
        # What a terminal answers to INFO it also posts as options, if it posts them.
        for result in report.results:
            if result.cmd.upper() == "INFO" and result.attributes:
                await self._tell_of_itself(device, received_at, _facts(result.attributes))
        if settled.all_known:
            self._met(device, Contact(received_at))
        else:
            await self._keep(device, received_at, "devicecmd", report.body)

    async def _greet(self, device: KnownDevice, request: Hello, received_at: datetime) -> bytes:
        secure = _speaks_security(request, device.dialect)
        announced = f"{request.pushver} {request.device_type}"
        await self._look(device, Glimpse(received_at, announced=announced))
        offset = _offset(device, received_at)
        language = request.language if (request.language or "").isdigit() else None
        device.watched.language = language or device.watched.language
        facts = {
            **self._told(device, offset),
            "push_version": request.pushver,
            "announced_type": request.device_type,
            "language": language,
            # Without a type that it announced or a table that it sent, this is a guess, and not to be remembered.
            "dialect": ("SECURITY" if secure else "ATTENDANCE") if request.device_type or not secure else None,
            "muted": False,
        }
        self._met(device, Contact(received_at, facts=facts))
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            marks = await bindings.stamps(connection, device.tenant_id, device.device.id)
            logged = await commands.greet(connection, _recipient(device))
            await reconciliations.hasten(connection, [(device.tenant_id, device.device.id)])
            if secure:
                await bindings.unconfigure(connection, device.tenant_id, device.device.id)
        self._ring(logged)
        if secure:
            device.watched.configured = False
            return self._configuration(device, registered=True) if device.dialect == "SECURITY" else _REGISTER
        return replies.options_block(
            request.serial,
            stamps=marks,
            time_zone_offset=timedelta(minutes=offset),
            delay=self._settings.device_delay_seconds,
            error_delay=_ERROR_DELAY,
        )

    async def _register(self, device: KnownDevice, request: Registration, received_at: datetime) -> bytes:
        """Remembered before it is answered: the handshake that follows is another one."""
        facts = {**_facts(request.options), "announced_type": option(request.options, "DeviceType"), "muted": False}
        facts |= {"push_version": option(request.options, "PushVersion"), "dialect": "SECURITY"}
        contact = Contact(received_at, facts={name: value for name, value in facts.items() if value is not None})
        contact.facts["configured"] = False
        key = (device.tenant_id, device.device.id)
        await self._look(device, Glimpse(received_at, punches=contact.facts.get("reported_punch_count")))
        async with self._db.across("ingest", [device.tenant_id]) as connection:
            logged = await presence.note(connection, {key: contact})
        self._ring(logged)
        for believed in self._believed.values():
            if believed.device is not None and believed.device.device.id == device.device.id:
                believed.until = 0
        return security.registered(self._code(device, "registry"))

    async def _configure(self, device: KnownDevice, received_at: datetime) -> bytes:
        """The answer to a push: its options, and once it has them the next command, as some units ask for them here."""
        facts = _dialect(device, "SECURITY")
        line: bytes | None = None
        if device.watched.configured:
            line = await self._hand_out(device, received_at, None)
        device.watched.configured = True
        self._met(device, Contact(received_at, facts={**facts, "configured": True}))
        return line or self._configuration(device)

    def _configuration(self, device: KnownDevice, *, registered: bool = False) -> bytes:
        return security.configuration(
            self._code(device, "session").upper(),
            version=_SECURITY_VERSION,
            delay=self._settings.device_delay_seconds,
            error_delay=_ERROR_DELAY,
            code=self._code(device, "registry") if registered else None,
        )

    def _code(self, device: KnownDevice, purpose: str) -> str:
        """The same at each process and each time, or the unit would register for ever."""
        return self._vault.recognise(f"{purpose}:{device.tenant_id}:{device.device.id}").hex()[:32]

    def _met(self, device: KnownDevice, contact: Contact) -> None:
        key = (device.tenant_id, device.device.id)
        if (known := self._contacts.get(key)) is not None:
            known.merge(contact)
        else:
            contact.facts = {name: value for name, value in contact.facts.items() if value is not None}
            self._contacts[key] = contact

    async def _note_contacts(self) -> None:
        while True:
            await asyncio.sleep(_NOTE_SECONDS)
            await self._note()

    async def _note(self) -> None:
        """One statement for all who called since the last one. What is lost here is only met again."""
        if not self._contacts:
            return
        contacts, self._contacts = self._contacts, {}
        try:
            async with self._db.across("ingest", [tenant_id for tenant_id, _ in contacts]) as connection:
                logged = await presence.note(connection, contacts)
            self._ring(logged)
        except ServiceUnavailable:
            pass
        except Exception:
            log.exception("contacts_lost", devices=len(contacts))


def _offset(device: KnownDevice, at: datetime) -> int:
    """Minutes from Greenwich, of the device's zone at this moment."""
    return round((at.astimezone(device.zone).utcoffset() or timedelta()) / timedelta(minutes=1))


def _recipient(device: KnownDevice) -> Recipient:
    return Recipient(device.tenant_id, device.device.id, device.zone, device.watched.takes)


#: Where users come, and how much of it is looked at while a claim is open.
_USERS: Final = frozenset({"OPERLOG", "USERINFO"})
_CLAIM_BYTES: Final = 64 * 1024
#: Tables that may come with the backlog of days.
_LONG: Final = frozenset({"ATTLOG", "RTLOG"})
#: Only one dialect has this table.
_PROVES: Final[Mapping[str, str]] = {"ATTLOG": "ATTENDANCE", "RTLOG": "SECURITY", "RTSTATE": "SECURITY"}


def _dialect(device: KnownDevice, proven: str | None) -> dict[str, Any]:
    return {"dialect": proven} if proven and proven != device.dialect else {}


def _speaks_security(request: Hello, remembered: str | None) -> bool:
    """By the type that is announced, else as remembered, else by the version: attendance units may say 3.x, too."""
    if request.device_type:
        return request.device_type.lower() == "acc"
    return remembered == "SECURITY" if remembered else version(request.pushver) >= (3,)


def _facts(options: Mapping[str, str]) -> dict[str, Any]:
    counts = {
        "reported_user_count": option(options, "UserCount"),
        "reported_punch_count": option(options, "TransactionCount"),
    }
    return {
        "model": option(options, "DeviceName"),
        "firmware_version": option(options, "FWVersion") or option(options, "FirmVer"),
        **{name: int(text) for name, text in counts.items() if text and text.isdigit() and len(text) < 10},
    }
