"""Root mutations: a scope, a verb of the domain, a payload. What they share is `_run`.

A verb runs in one transaction together with its idempotency key. A refusal that the caller can act on rolls it back and
becomes a `userErrors` entry; everything else is an entry of `errors`. Events are rung out after the commit.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import strawberry
from graphql import (
    BooleanValueNode,
    FieldNode,
    FragmentSpreadNode,
    GraphQLResolveInfo,
    InlineFragmentNode,
    SelectionNode,
    SelectionSetNode,
    VariableNode,
)
from strawberry import UNSET

from app import ids
from app.database import Session
from app.domain import (
    acts,
    addresses,
    bindings,
    claims,
    command_feed,
    commands,
    deliveries,
    delivery_feed,
    devices,
    employees,
    endpoints,
    enrollments,
    idempotency,
    keys,
    outbox,
    placements,
    replays,
    roster,
    sites,
    stream_tokens,
)
from app.domain.audit import AuditSource, Author, Target
from app.domain.events import Logged
from app.domain.keys import Actor, PermissionDenied, Unauthenticated
from app.domain.tables import now
from app.errors import AppError, doc_url
from schema.context import Context, Info
from schema.fields import resolved
from schema.inputs import (
    ApiKeyCreateInput,
    ApiKeyIdInput,
    ApiKeyRotateInput,
    DeviceApproveInput,
    DeviceBackfillInput,
    DeviceCommandIdInput,
    DeviceCommandSendInput,
    DeviceIdInput,
    DeviceRegisterInput,
    DeviceUpdateInput,
    EmployeeBulkUpsertInput,
    EmployeeIdInput,
    EmployeeUpsertInput,
    EnrollmentRotateInput,
    MutationInput,
    SiteCreateInput,
    SiteDeleteInput,
    SiteUpdateInput,
    StreamTokenCreateInput,
    WebhookDeliveryIdInput,
    WebhookEndpointCreateInput,
    WebhookEndpointIdInput,
    WebhookEndpointRotateSecretInput,
    WebhookEndpointUpdateInput,
    WebhookReplayInput,
    read_grace,
    read_id,
)
from schema.payloads import (
    Answer,
    ApiKeyPayload,
    ApiKeySecretPayload,
    DeletePayload,
    DeviceCommandPayload,
    DevicePayload,
    EmployeeBulkPayload,
    EmployeePayload,
    EnrollmentPayload,
    SitePayload,
    StreamTokenPayload,
    UserError,
    WebhookDeliveryPayload,
    WebhookEndpointPayload,
    WebhookEndpointSecretPayload,
    WebhookReplayPayload,
)

E = TypeVar("E")

#: Not about the input, so not for `userErrors`.
_TOP_LEVEL: Final = (
    Unauthenticated,
    PermissionDenied,
    idempotency.KeyReused,
    idempotency.InProgress,
    idempotency.KeyAmbiguous,
)


@dataclass(frozen=True, slots=True)
class Done(Generic[E]):
    """What a verb did."""

    entity: E
    #: Enough to find the entity again; see `idempotency`.
    outcome: dict[str, Any]
    logged: Sequence[Logged] = ()
    #: Shown now and never again.
    secret: str | None = None
    #: Deliveries became due without an event.
    due: bool = False


Verb = Callable[[Session, Actor], Awaitable[Done[E]]]
Recall = Callable[[Session, UUID, dict[str, Any]], Awaitable[E | None]]


async def _run(info: Info, scope: str, input: MutationInput, verb: Verb[E], recall: Recall[E]) -> Answer[E]:
    """Do it once. The actor needs `scope`; `recall` finds the entity of an earlier call by its outcome."""
    context = info.context
    actor = context.actor.may(scope)

    author = Author(AuditSource.API, actor.key_id, context.request_id)

    async def act() -> Done[E]:
        async with acts.begin(session, actor.tenant_id, author, info.field_name, input.named()) as act:
            done = await verb(session, actor)
            for kind, target_id in _targets(done.entity):
                act.on(kind, target_id)
            return done

    try:
        call = _call(info, input)
        async with context.db.write(actor.tenant_id) as session:
            done = await idempotency.once(session, actor.tenant_id, call, act)
            if isinstance(done, idempotency.Replay):
                context.response_headers["Idempotent-Replayed"] = "true"
                return Answer(await recall(session, actor.tenant_id, done.outcome), replay=True)
    except AppError as exc:
        if not 400 <= exc.status < 500 or isinstance(exc, _TOP_LEVEL):
            raise
        return Answer(errors=[_user_error(context, exc)])
    context.refresh()
    context.ring(done.logged)
    if isinstance(done.entity, commands.DeviceCommand):
        command_feed.ring(context.bell, actor.tenant_id)
    if isinstance(done.entity, devices.Device):
        context.bell.ring(outbox.devices_channel(actor.tenant_id), b"1")
    if isinstance(done.entity, deliveries.Delivery):
        delivery_feed.ring(context.bell, actor.tenant_id, [done.entity.id])
    if done.due and not done.logged:
        context.bell.ring(outbox.DELIVERIES, b"1")
    return Answer(done.entity, done.secret)


#: What the tables of things that are acted upon call them outside.
_KINDS: Final[Mapping[type[Any], ids.Prefix]] = {
    sites.Site: "sit",
    devices.Device: "dev",
    commands.DeviceCommand: "cmd",
    employees.Employee: "emp",
    keys.ApiKey: "key",
    endpoints.Endpoint: "whk",
    deliveries.Delivery: "whd",
    replays.Replay: "rep",
}


def _targets(entity: Any) -> list[Target]:
    """What was done something to, for the log."""
    if isinstance(entity, tuple):
        return [entity]
    if isinstance(entity, enrollments.Addresses | stream_tokens.Issued):
        return []
    return [(_KINDS[type(one)], one.id) for one in (entity if isinstance(entity, list) else [entity])]


def _call(info: Info, input: MutationInput) -> idempotency.Call | None:
    if isinstance(input, StreamTokenCreateInput):
        return None
    given = input.idempotency_key if input.idempotency_key is not UNSET else None
    header = info.context.idempotency_header
    key = idempotency.choose_key(given, header, 0 if header is None else _count_fields(info))
    return None if key is None else idempotency.call(info.field_name, key, input.arguments())


def _count_fields(info: Info) -> int:
    """How many mutations this request runs."""
    raw: GraphQLResolveInfo[Context] = info._raw_info  # noqa: SLF001
    names: set[str] = set()

    def walk(selections: SelectionSetNode) -> None:
        for node in selections.selections:
            if not _runs(node, info.variable_values):
                continue
            if isinstance(node, FieldNode):
                if not node.name.value.startswith("__"):
                    names.add((node.alias or node.name).value)
            elif isinstance(node, InlineFragmentNode):
                walk(node.selection_set)
            elif isinstance(node, FragmentSpreadNode):
                walk(raw.fragments[node.name.value].selection_set)

    walk(info.operation.selection_set)
    return len(names)


def _runs(node: SelectionNode, variables: Mapping[str, Any]) -> bool:
    """Unless @skip or @include say otherwise. The document is valid, so each of them has its one argument."""
    for directive in node.directives or ():
        if (name := directive.name.value) in ("skip", "include"):
            (value,) = (argument.value for argument in directive.arguments or ())
            if isinstance(value, VariableNode):
                given = variables.get(value.name.value)
            else:
                given = isinstance(value, BooleanValueNode) and value.value
            if given == (name == "skip"):
                return False
    return True


def _user_error(context: Context, exc: AppError) -> UserError:
    return UserError(
        code=exc.code,
        message=exc.message,
        doc_url=doc_url(context.settings.public_url, exc.code),
        path=list(exc.path) or None,
    )


def _by_id(find: Callable[[Session, UUID, Sequence[UUID]], Awaitable[Mapping[UUID, E]]]) -> Recall[E]:
    async def recall(session: Session, tenant_id: UUID, outcome: dict[str, Any]) -> E | None:
        entity_id = UUID(outcome["id"])
        return (await find(session, tenant_id, [entity_id])).get(entity_id)

    return recall


def _gone(prefix: ids.Prefix) -> Recall[tuple[ids.Prefix, UUID]]:
    async def recall(_session: Session, _tenant_id: UUID, outcome: dict[str, Any]) -> tuple[ids.Prefix, UUID]:
        return prefix, UUID(outcome["id"])

    return recall


async def _nothing(_session: Session, _tenant_id: UUID, _outcome: dict[str, Any]) -> None:
    """A token is shown once, and never remembered."""


def _outcome(entity_id: UUID) -> dict[str, Any]:
    return {"id": str(entity_id)}


def _url_rules(context: Context) -> Callable[[str], None]:
    settings = context.settings
    guard = addresses.AddressGuard(settings.webhook_allow_networks)
    return partial(addresses.check_url, allow_http=settings.webhook_allow_http, guard=guard)


@strawberry.type(description="Writes. Each happens whole or not at all, and once per idempotency key.")
class Mutation:
    """The contract's root."""

    # ── sites ────────────────────────────────────────────────────────────────────────────────────────

    @resolved("Add a place.")
    async def site_create(self, info: Info, input: SiteCreateInput) -> SitePayload | None:
        """devices:write."""

        async def create(session: Session, actor: Actor) -> Done[sites.Site]:
            site = await sites.create(session, actor.tenant_id, input.name, input.time_zone)
            return Done(site, _outcome(site.id))

        return SitePayload.of(await _run(info, "devices:write", input, create, _by_id(sites.by_ids)))

    @resolved("Change a place's name or zone. A new zone applies to punches that arrive after it.")
    async def site_update(self, info: Info, input: SiteUpdateInput) -> SitePayload | None:
        """devices:write."""

        async def update(session: Session, actor: Actor) -> Done[sites.Site]:
            site_id = read_id("sit", input.id)
            site = await sites.update(session, actor.tenant_id, site_id, input.changes("name", "time_zone"))
            return Done(site, _outcome(site.id))

        return SitePayload.of(await _run(info, "devices:write", input, update, _by_id(sites.by_ids)))

    @resolved("Remove a place where no device hangs any more.")
    async def site_delete(self, info: Info, input: SiteDeleteInput) -> DeletePayload | None:
        """devices:write."""

        async def delete(session: Session, actor: Actor) -> Done[tuple[ids.Prefix, UUID]]:
            site_id = read_id("sit", input.id)
            await sites.delete(session, actor.tenant_id, site_id)
            return Done(("sit", site_id), _outcome(site_id))

        return DeletePayload.of(await _run(info, "devices:write", input, delete, _gone("sit")))

    # ── devices ──────────────────────────────────────────────────────────────────────────────────────

    @resolved("Expect a terminal. A zone is needed, its own or its site's: time_zone_required otherwise.")
    async def device_register(self, info: Info, input: DeviceRegisterInput) -> DevicePayload | None:
        """devices:write."""

        async def register(session: Session, actor: Actor) -> Done[devices.Device]:
            given = input.changes("name", "site_id", "time_zone")
            site_id = given.get("site_id")
            device = await devices.register(
                session,
                actor.tenant_id,
                input.serial_number,
                name=given.get("name"),
                site_id=None if site_id is None else read_id("sit", site_id, "siteId"),
                time_zone=given.get("time_zone"),
            )
            if info.context.settings.shared_address == "challenge":
                claims.begin(device, now())
            return Done(device, _outcome(device.id))

        return DevicePayload.of(await _run(info, "devices:write", input, register, _by_id(devices.by_ids)))

    @resolved("Change a device's name, site or zone. A new zone applies to punches that arrive after it.")
    async def device_update(self, info: Info, input: DeviceUpdateInput) -> DevicePayload | None:
        """devices:write."""

        async def update(session: Session, actor: Actor) -> Done[devices.Device]:
            device_id = read_id("dev", input.id)
            device = await devices.update(session, actor.tenant_id, device_id, _device_changes(input))
            return Done(device, _outcome(device.id))

        return DevicePayload.of(await _run(info, "devices:write", input, update, _by_id(devices.by_ids)))

    @resolved("Approve a PENDING device of this tenant's list. It needs a zone, its own or its site's.")
    async def device_approve(self, info: Info, input: DeviceApproveInput) -> DevicePayload | None:
        """devices:write."""
        context = info.context

        async def approve(session: Session, actor: Actor) -> Done[devices.Device]:
            device, logged = await bindings.approve(
                session,
                actor.tenant_id,
                read_id("dev", input.id),
                _device_changes(input),
                shared=context.settings.shared_address == "approve",
            )
            return Done(device, _outcome(device.id), logged)

        return DevicePayload.of(await _run(info, "devices:write", input, approve, _by_id(devices.by_ids)))

    @resolved("Stop hearing a device; it keeps its records meanwhile.")
    async def device_suspend(self, info: Info, input: DeviceIdInput) -> DevicePayload | None:
        """devices:write."""
        return await _move(info, input, devices.suspend)

    @resolved("Hear a suspended device again.")
    async def device_resume(self, info: Info, input: DeviceIdInput) -> DevicePayload | None:
        """devices:write."""
        return await _move(info, input, devices.resume)

    @resolved("Take a device out of service for good. Its punches stay; its serial number may be registered anew.")
    async def device_retire(self, info: Info, input: DeviceIdInput) -> DevicePayload | None:
        """devices:write."""

        async def retire(session: Session, actor: Actor) -> Done[devices.Device]:
            device = await devices.retire(session, actor.tenant_id, read_id("dev", input.id))
            logged = await commands.cancel_all(session, actor.tenant_id, device.id)
            await placements.drop(session, actor.tenant_id, device.id)
            return Done(device, _outcome(device.id), logged)

        return DevicePayload.of(await _run(info, "devices:write", input, retire, _by_id(devices.by_ids)))

    @resolved(
        "Queue a command; the terminal takes it at its next poll. Needs devices:write; to open a door, doors:unlock "
        "instead."
    )
    async def device_command_send(self, info: Info, input: DeviceCommandSendInput) -> DeviceCommandPayload | None:
        """devices:write or doors:unlock."""
        scope = "devices:write" if input.command.unlock_door is UNSET else "doors:unlock"

        async def send(session: Session, actor: Actor) -> Done[commands.DeviceCommand]:
            device_id = read_id("dev", input.device_id, "deviceId")
            command = await commands.send(session, actor.tenant_id, device_id, *input.command.read())
            return Done(command, _outcome(command.id))

        return DeviceCommandPayload.of(await _run(info, scope, input, send, _by_id(commands.by_ids)))

    @resolved("Take a command back. If it was handed out already, the terminal may carry it out all the same.")
    async def device_command_cancel(self, info: Info, input: DeviceCommandIdInput) -> DeviceCommandPayload | None:
        """devices:write."""

        async def cancel(session: Session, actor: Actor) -> Done[commands.DeviceCommand]:
            command, logged = await commands.cancel(session, actor.tenant_id, read_id("cmd", input.id))
            return Done(command, _outcome(command.id), logged)

        return DeviceCommandPayload.of(await _run(info, "devices:write", input, cancel, _by_id(commands.by_ids)))

    @resolved("Ask the terminal to send its stored punches of a period again. What is here already stays one punch.")
    async def device_backfill(self, info: Info, input: DeviceBackfillInput) -> DeviceCommandPayload | None:
        """devices:write."""

        async def backfill(session: Session, actor: Actor) -> Done[commands.DeviceCommand]:
            device_id = read_id("dev", input.device_id, "deviceId")
            command = await commands.backfill(session, actor.tenant_id, device_id, input.from_, input.to)
            return Done(command, _outcome(command.id))

        return DeviceCommandPayload.of(await _run(info, "devices:write", input, backfill, _by_id(commands.by_ids)))

    # ── employees ────────────────────────────────────────────────────────────────────────────────────

    @resolved(
        "Create or change by PIN, and place on the named devices. Of the punches that waited for this PIN, the newest "
        "1000 are sent as punch.matched."
    )
    async def employee_upsert(self, info: Info, input: EmployeeUpsertInput) -> EmployeePayload | None:
        """employees:write."""

        async def upsert(session: Session, actor: Actor) -> Done[employees.Employee]:
            person, logged = await roster.upsert(session, actor.tenant_id, input.person())
            return Done(person, _outcome(person.id), logged)

        return EmployeePayload.of(await _run(info, "employees:write", input, upsert, _by_id(employees.by_ids)))

    @resolved("Place on a device whoever is placed on another device of its site, as for a terminal that is new there.")
    async def device_fill_from_site(self, info: Info, input: DeviceIdInput) -> DevicePayload | None:
        """employees:write."""

        async def fill(session: Session, actor: Actor) -> Done[devices.Device]:
            device = await placements.fill(session, actor.tenant_id, read_id("dev", input.id))
            return Done(device, _outcome(device.id))

        return DevicePayload.of(await _run(info, "employees:write", input, fill, _by_id(devices.by_ids)))

    @resolved("Up to 1000 at once; all or none.")
    async def employee_bulk_upsert(self, info: Info, input: EmployeeBulkUpsertInput) -> EmployeeBulkPayload | None:
        """employees:write."""

        async def upsert(session: Session, actor: Actor) -> Done[list[employees.Employee]]:
            wanted = []
            for place, row in enumerate(input.employees):
                with roster.in_row(place):
                    wanted.append(row.person())
            people, logged = await roster.upsert_all(session, actor.tenant_id, wanted)
            return Done(people, {"ids": [str(person.id) for person in people]}, logged)

        async def recall(session: Session, tenant_id: UUID, outcome: dict[str, Any]) -> list[employees.Employee]:
            wanted = [UUID(text) for text in outcome["ids"]]
            found = await employees.by_ids(session, tenant_id, wanted)
            return [found[employee_id] for employee_id in wanted if employee_id in found]

        return EmployeeBulkPayload.of(await _run(info, "employees:write", input, upsert, recall))

    @resolved("Removes the person here and from every terminal; punches keep the PIN.")
    async def employee_delete(self, info: Info, input: EmployeeIdInput) -> DeletePayload | None:
        """employees:write."""

        async def delete(session: Session, actor: Actor) -> Done[tuple[ids.Prefix, UUID]]:
            employee_id = read_id("emp", input.id)
            await roster.delete(session, actor.tenant_id, employee_id)
            return Done(("emp", employee_id), _outcome(employee_id))

        return DeletePayload.of(await _run(info, "employees:write", input, delete, _gone("emp")))

    # ── keys and addresses ───────────────────────────────────────────────────────────────────────────

    @resolved("A new key, never stronger than the one that asks. Its secret is shown once.")
    async def api_key_create(self, info: Info, input: ApiKeyCreateInput) -> ApiKeySecretPayload | None:
        """keys:write."""

        async def create(session: Session, actor: Actor) -> Done[keys.ApiKey]:
            expires_at = None if input.expires_at is UNSET else input.expires_at
            key, secret = await keys.create(
                session, actor, input.name, input.scopes, expires_at=expires_at, vault=info.context.vault
            )
            return Done(key, _outcome(key.id), secret=secret)

        return ApiKeySecretPayload.of(await _run(info, "keys:write", input, create, _by_id(keys.by_ids)))

    @resolved("The old key works until graceSeconds have passed. The new one is like it; its secret is shown once.")
    async def api_key_rotate(self, info: Info, input: ApiKeyRotateInput) -> ApiKeySecretPayload | None:
        """keys:write."""

        async def rotate(session: Session, actor: Actor) -> Done[keys.ApiKey]:
            key_id, grace = read_id("key", input.id), read_grace(input.grace_seconds)
            key, secret = await keys.rotate(session, actor, key_id, grace, info.context.vault)
            return Done(key, _outcome(key.id), secret=secret)

        return ApiKeySecretPayload.of(await _run(info, "keys:write", input, rotate, _by_id(keys.by_ids)))

    @resolved("End a key: it stops working everywhere, open sockets included, within 5 s.")
    async def api_key_revoke(self, info: Info, input: ApiKeyIdInput) -> ApiKeyPayload | None:
        """keys:write."""

        async def revoke(session: Session, actor: Actor) -> Done[keys.ApiKey]:
            key = await keys.revoke(session, actor.tenant_id, read_id("key", input.id))
            return Done(key, _outcome(key.id))

        return ApiKeyPayload.of(await _run(info, "keys:write", input, revoke, _by_id(keys.by_ids)))

    @resolved("New host and URL for terminals; the old ones work until graceSeconds have passed.")
    async def enrollment_rotate(self, info: Info, input: EnrollmentRotateInput) -> EnrollmentPayload | None:
        """devices:write."""
        context = info.context

        async def recall(session: Session, tenant_id: UUID, _outcome: dict[str, Any]) -> enrollments.Addresses | None:
            return await enrollments.addresses(session, tenant_id, context.vault, context.settings)

        async def rotate(session: Session, actor: Actor) -> Done[enrollments.Addresses]:
            grace = read_grace(input.grace_seconds)
            row, token, label = await enrollments.rotate(session, actor.tenant_id, grace, context.vault)
            return Done(enrollments.spell(token, label, context.settings), _outcome(row.id))

        return EnrollmentPayload.of(await _run(info, "devices:write", input, rotate, recall))

    @resolved(
        "A short-lived, read-only token for a browser or a phone: at most one hour, punches:read and devices:read as "
        "far as the key has them, optionally a few sites. It works wherever a key does, and ends with its key."
    )
    async def stream_token_create(self, info: Info, input: StreamTokenCreateInput) -> StreamTokenPayload | None:
        """punches:read."""

        async def issue(session: Session, actor: Actor) -> Done[stream_tokens.Issued]:
            lasts = timedelta(seconds=900 if input.ttl_seconds is None else input.ttl_seconds)
            given = None if input.site_ids is UNSET or input.site_ids is None else input.site_ids
            site_ids = None if given is None else [read_id("sit", text, "siteIds") for text in given]
            return Done(await stream_tokens.issue(session, actor, lasts, site_ids, info.context.vault), {})

        return StreamTokenPayload.of(await _run(info, "punches:read", input, issue, _nothing))

    # ── webhooks ─────────────────────────────────────────────────────────────────────────────────────

    @resolved("A new receiver. Its secret is shown once.")
    async def webhook_endpoint_create(
        self, info: Info, input: WebhookEndpointCreateInput
    ) -> WebhookEndpointSecretPayload | None:
        """webhooks:write."""

        async def create(session: Session, actor: Actor) -> Done[endpoints.Endpoint]:
            given = input.changes("description", "event_types")
            endpoint, secret = await endpoints.create(
                session,
                actor.tenant_id,
                input.url,
                description=given.get("description"),
                event_types=given.get("event_types") or (),
                check_url=_url_rules(info.context),
                vault=info.context.vault,
            )
            return Done(endpoint, _outcome(endpoint.id), secret=secret)

        answer = await _run(info, "webhooks:write", input, create, _by_id(endpoints.by_ids))
        return WebhookEndpointSecretPayload.of(answer)

    @resolved("Change, pause or enable a receiver. Paused, it keeps its backlog; enabled, it gets it at once.")
    async def webhook_endpoint_update(
        self, info: Info, input: WebhookEndpointUpdateInput
    ) -> WebhookEndpointPayload | None:
        """webhooks:write."""

        async def update(session: Session, actor: Actor) -> Done[endpoints.Endpoint]:
            endpoint = await endpoints.update(
                session,
                actor.tenant_id,
                read_id("whk", input.id),
                input.changes("url", "description", "event_types", "status"),
                check_url=_url_rules(info.context),
            )
            return Done(endpoint, _outcome(endpoint.id), due=endpoint.status == endpoints.EndpointStatus.ENABLED)

        answer = await _run(info, "webhooks:write", input, update, _by_id(endpoints.by_ids))
        return WebhookEndpointPayload.of(answer)

    @resolved("Send nothing more there. What waits is cancelled; deliveries stay readable.")
    async def webhook_endpoint_delete(self, info: Info, input: WebhookEndpointIdInput) -> DeletePayload | None:
        """webhooks:write."""

        async def delete(session: Session, actor: Actor) -> Done[tuple[ids.Prefix, UUID]]:
            endpoint_id = read_id("whk", input.id)
            await endpoints.delete(session, actor.tenant_id, endpoint_id)
            return Done(("whk", endpoint_id), _outcome(endpoint_id))

        return DeletePayload.of(await _run(info, "webhooks:write", input, delete, _gone("whk")))

    @resolved(
        "A new secret. Both secrets sign until the grace period ends. A secret that an earlier rotation replaced signs "
        "until its own grace ends, the latest two of them at most; graceSeconds: 0 ends all but the new one at once."
    )
    async def webhook_endpoint_rotate_secret(
        self, info: Info, input: WebhookEndpointRotateSecretInput
    ) -> WebhookEndpointSecretPayload | None:
        """webhooks:write."""

        async def rotate(session: Session, actor: Actor) -> Done[endpoints.Endpoint]:
            endpoint_id, grace = read_id("whk", input.id), read_grace(input.grace_seconds)
            endpoint, secret = await endpoints.rotate_secret(
                session, actor.tenant_id, endpoint_id, grace, info.context.vault
            )
            return Done(endpoint, _outcome(endpoint.id), secret=secret)

        answer = await _run(info, "webhooks:write", input, rotate, _by_id(endpoints.by_ids))
        return WebhookEndpointSecretPayload.of(answer)

    @resolved("Queues a webhook.test event and answers with its delivery; follow it by webhookDeliveryChanged.")
    async def webhook_endpoint_test(self, info: Info, input: WebhookEndpointIdInput) -> WebhookDeliveryPayload | None:
        """webhooks:write."""

        async def test(session: Session, actor: Actor) -> Done[deliveries.Delivery]:
            endpoint_id = read_id("whk", input.id)
            delivery_id, logged = await outbox.send_test(session, actor.tenant_id, endpoint_id)
            delivery = (await deliveries.by_ids(session, actor.tenant_id, [delivery_id]))[delivery_id]
            return Done(delivery, _outcome(delivery_id), logged)

        answer = await _run(info, "webhooks:write", input, test, _by_id(deliveries.by_ids))
        return WebhookDeliveryPayload.of(answer)

    @resolved("Starts sending the events of a period to an endpoint again: same event ids, new delivery ids.")
    async def webhook_replay(self, info: Info, input: WebhookReplayInput) -> WebhookReplayPayload | None:
        """webhooks:write."""

        async def start(session: Session, actor: Actor) -> Done[replays.Replay]:
            given = input.changes("until", "event_types", "only_undelivered")
            replay = await replays.start(
                session,
                actor.tenant_id,
                read_id("whk", input.endpoint_id, "endpointId"),
                input.since,
                given.get("until"),
                event_types=given.get("event_types"),
                only_undelivered=bool(given.get("only_undelivered")),
            )
            return Done(replay, _outcome(replay.id))

        answer = await _run(info, "webhooks:write", input, start, _by_id(replays.by_ids))
        return WebhookReplayPayload.of(answer)

    @resolved("Try an exhausted or waiting delivery again now.")
    async def webhook_delivery_retry(self, info: Info, input: WebhookDeliveryIdInput) -> WebhookDeliveryPayload | None:
        """webhooks:write."""

        async def retry(session: Session, actor: Actor) -> Done[deliveries.Delivery]:
            delivery_id = read_id("whd", input.id)
            await deliveries.retry(session, actor.tenant_id, delivery_id)
            delivery = (await deliveries.by_ids(session, actor.tenant_id, [delivery_id]))[delivery_id]
            return Done(delivery, _outcome(delivery_id), due=True)

        answer = await _run(info, "webhooks:write", input, retry, _by_id(deliveries.by_ids))
        return WebhookDeliveryPayload.of(answer)


def _device_changes(input: DeviceUpdateInput | DeviceApproveInput) -> dict[str, Any]:
    changes = input.changes("name", "site_id", "time_zone")
    if changes.get("site_id") is not None:
        changes["site_id"] = read_id("sit", changes["site_id"], "siteId")
    return changes


async def _move(
    info: Info, input: DeviceIdInput, verb: Callable[[Session, UUID, UUID], Awaitable[devices.Device]]
) -> DevicePayload:
    async def move(session: Session, actor: Actor) -> Done[devices.Device]:
        device = await verb(session, actor.tenant_id, read_id("dev", input.id))
        return Done(device, _outcome(device.id))

    return DevicePayload.of(await _run(info, "devices:write", input, move, _by_id(devices.by_ids)))
