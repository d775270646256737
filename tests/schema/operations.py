"""How to call everything there is, for tests that walk the whole schema. What is new in the schema is added here.

A **call** is a field with arguments under which it works in a tenant of `parties.make_party`. Ids, texts and cursors
that belong to a tenant stand in it as members of `It`, and are put in later: its own, another's, or nobody's.

A **spot** is a place in an argument where a caller may write an id or a text, through however many inputs. For each of
them either a call has an `It` there, or `NAMES` says what belongs there, or `PLAIN` says that it names nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from graphql import (
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLInputType,
    GraphQLInterfaceType,
    GraphQLList,
    GraphQLNonNull,
    GraphQLObjectType,
    GraphQLOutputType,
    get_named_type,
    is_leaf_type,
    is_required_argument,
)
from strawberry.types.base import StrawberryObjectDefinition

from app import ids
from schema import schema

ROOTS = ("Query", "Mutation", "Subscription")
#: Rows of a list inside an answer.
FEW = 3


class It(StrEnum):
    """Something of a tenant's, by id or by another name."""

    TENANT = "ten"
    KEY = "key"
    SPARE_KEY = "key, spare"
    SITE = "sit"
    EMPTY_SITE = "sit, empty"
    DEVICE = "dev"
    PENDING = "dev, pending"
    REJECTED = "rej"
    COMMAND = "cmd"
    EMPLOYEE = "emp"
    PUNCH = "pun"
    EVENT = "evt"
    ENDPOINT = "whk"
    DELIVERY = "whd"
    REPLAY = "rep"
    ENTRY = "aud"

    # Texts by which something may be known.
    SITE_NAME = "Site 7f3a"
    DEVICE_NAME = "Door 7f3a"
    SERIAL = "SN7F3A"
    PIN = "730001"
    PERSON = "Person 7f3a"
    EXTERNAL_ID = "hr-7f3a"
    CARD = "739001"
    UUID = "uuid"
    URL = "https://7f3a.example/hook"
    NOTE = "Note 7f3a"
    KEY_NAME = "Key 7f3a"
    IDEMPOTENCY_KEY = "once 7f3a"
    #: Of the very list in whose call it stands.
    CURSOR = "cursor"

    @property
    def prefix(self) -> ids.Prefix | None:
        """The prefix of its ids; None for a text."""
        head = self.value[:3]
        return head if head in ids.PREFIXES and self.value[3:4] in ("", ",") else None  # type: ignore[return-value]


#: What has an id that `node` takes, by the name of its type, and the scope that opens it there.
NODES: dict[str, tuple[It, str | None]] = {
    "Tenant": (It.TENANT, None),
    "ApiKey": (It.KEY, "keys:write"),
    "Site": (It.SITE, "devices:read"),
    "Device": (It.DEVICE, "devices:read"),
    "RejectedRecord": (It.REJECTED, "devices:read"),
    "DeviceCommand": (It.COMMAND, "devices:read"),
    "Employee": (It.EMPLOYEE, "employees:read"),
    "Punch": (It.PUNCH, "punches:read"),
    "WebhookEndpoint": (It.ENDPOINT, "webhooks:read"),
    "WebhookDelivery": (It.DELIVERY, "webhooks:read"),
    "WebhookReplay": (It.REPLAY, "webhooks:read"),
    "AuditEntry": (It.ENTRY, "audit:read"),
}

#: What an object leads to, and the scope that it asks for besides the object's own; None for what comes with it.
#: Plain values are not here. A field with arguments has its scope in CALLS.
BELOW: dict[str, str | None] = {
    "Device.site": "devices:read",
    "Device.timeZone": None,
    "Device.flags": None,
    "Device.connection": None,
    "Device.claim": "devices:write",
    "Device.storedPunchCount": None,
    "Device.completeness": None,
    "Device.lastReconciledAt": None,
    "Device.unknownPins": "employees:read",
    "DeviceCommand.device": None,
    "Employee.cardNumber": "employees:read",
    "Employee.placements": "employees:read",
    "Placement.device": None,
    "Placement.lastCommand": "devices:read",
    "Punch.device": None,
    "Punch.employee": None,
    "Punch.raw": None,
    "RejectedRecord.raw": None,
    "Tenant.deviceCount": None,
    "Tenant.enrollment": "devices:write",
    "Tenant.pricePerDevice": None,
    "Viewer.apiKey": None,
    "Viewer.tenant": None,
    "WebhookDelivery.attempts": None,
    "WebhookDelivery.endpoint": None,
    "WebhookDelivery.payload": None,
    "WebhookReplay.endpoint": None,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A field, the scope that it asks for, and arguments under which it works."""

    field: str
    scope: str | None
    arguments: Mapping[str, Any]
    #: The type behind an interface.
    on: str = ""

    def __str__(self) -> str:
        return f"{self.field} {self.on}".strip()

    @property
    def name(self) -> str:
        """The field alone."""
        return self.field.partition(".")[2]

    @property
    def definition(self) -> GraphQLField:
        """The field's own."""
        return field_of(self.field)

    def document(self, depth: int | None = None) -> str:
        """The call with all that can be selected, its arguments as variables. A field of a node is reached by it."""
        parent, _, name = self.field.partition(".")
        depth = (1 if parent == "Mutation" else 2) if depth is None else depth
        heads = [f"${arg}: {definition.type}" for arg, definition in self.definition.args.items()]
        passed = ", ".join(f"{arg}: ${arg}" for arg in self.definition.args)
        field = f"answer: {name}{f'({passed})' if passed else ''}{select(self.definition.type, depth, self.on)}"
        if parent in ROOTS:
            kind = parent.lower()
        else:
            kind, heads = "query", ["$node: ID!", *heads]
            field = f"node(id: $node) {{ ... on {parent} {{ {field} }} }}"
        head = f"({', '.join(heads)})" if heads else ""
        return f"{kind} It{head} {{ {field} }}"

    def variables(self, names: Mapping[It, str], arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Its arguments, or others, with names put in."""
        parent = self.field.partition(".")[0]
        given = dict(self.arguments if arguments is None else arguments)
        if parent not in ROOTS:
            given["node"] = NODES[parent][0]
        filled: dict[str, Any] = fill(given, names)
        return filled


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in the arguments of a call."""

    call: Call
    path: tuple[str, ...]
    #: Which argument or input field it is, wherever that appears.
    coordinate: str
    it: It

    def __str__(self) -> str:
        return f"{self.call}({'.'.join(self.path)})"

    def arguments(self, value: Any) -> dict[str, Any]:
        """The call's arguments with a value put there."""
        first, *rest = self.path
        argument = self.call.definition.args[first]
        return {**self.call.arguments, first: _put(argument.type, self.call.arguments.get(first), rest, value)}


def _window(field: str, scope: str) -> Call:
    return Call(field, scope, {"first": FEW})


CALLS = [
    Call("Query.viewer", None, {}),
    Call("Query.rateLimit", None, {}),
    *(Call("Query.node", scope, {"id": it}, on=kind) for kind, (it, scope) in NODES.items()),
    *(Call("Query.nodes", scope, {"ids": [it]}, on=kind) for kind, (it, scope) in NODES.items()),
    Call("Query.site", "devices:read", {"id": It.SITE}),
    _window("Query.sites", "devices:read"),
    _window("Site.devices", "devices:read"),
    Call("Query.device", "devices:read", {"id": It.DEVICE}),
    Call("Query.device", "devices:read", {"serialNumber": It.SERIAL}),
    _window("Query.devices", "devices:read"),
    _window("Device.rejectedRecords", "devices:read"),
    _window("Device.commands", "devices:read"),
    _window("Device.punches", "punches:read"),
    _window("Query.deviceCommands", "devices:read"),
    Call("Query.employee", "employees:read", {"id": It.EMPLOYEE}),
    Call("Query.employee", "employees:read", {"pin": It.PIN}),
    _window("Query.employees", "employees:read"),
    _window("Employee.punches", "punches:read"),
    Call("Query.punch", "punches:read", {"id": It.PUNCH}),
    _window("Query.punches", "punches:read"),
    Call("Query.punchFeed", "punches:read", {"from": "BEGINNING", "first": FEW}),
    Call("Query.webhookEndpoint", "webhooks:read", {"id": It.ENDPOINT}),
    _window("Query.webhookEndpoints", "webhooks:read"),
    _window("WebhookEndpoint.deliveries", "webhooks:read"),
    Call("Query.webhookDelivery", "webhooks:read", {"id": It.DELIVERY}),
    Call("Query.webhookDelivery", "webhooks:read", {"uuid": It.UUID}),
    _window("Query.webhookDeliveries", "webhooks:read"),
    Call("Query.webhookReplay", "webhooks:read", {"id": It.REPLAY}),
    _window("Query.apiKeys", "keys:write"),
    _window("Query.auditLog", "audit:read"),
    # ── mutations ────────────────────────────────────────────────────────────────────────────────────
    Call("Mutation.siteCreate", "devices:write", {"input": {"name": "Depot", "timeZone": "UTC"}}),
    Call("Mutation.siteUpdate", "devices:write", {"input": {"id": It.SITE, "name": "New"}}),
    Call("Mutation.siteDelete", "devices:write", {"input": {"id": It.EMPTY_SITE}}),
    Call("Mutation.deviceRegister", "devices:write", {"input": {"serialNumber": "N1", "siteId": It.SITE}}),
    Call("Mutation.deviceUpdate", "devices:write", {"input": {"id": It.DEVICE, "name": "New"}}),
    Call("Mutation.deviceApprove", "devices:write", {"input": {"id": It.PENDING, "timeZone": "UTC"}}),
    Call("Mutation.deviceSuspend", "devices:write", {"input": {"id": It.DEVICE}}),
    Call("Mutation.deviceResume", "devices:write", {"input": {"id": It.DEVICE}}),
    Call("Mutation.deviceRetire", "devices:write", {"input": {"id": It.DEVICE}}),
    Call("Mutation.deviceFillFromSite", "employees:write", {"input": {"id": It.DEVICE}}),
    Call(
        "Mutation.deviceCommandSend",
        "devices:write",
        {"input": {"deviceId": It.DEVICE, "command": {"syncTime": True}}},
    ),
    Call(
        "Mutation.deviceCommandSend",
        "devices:write",
        {"input": {"deviceId": It.DEVICE, "command": {"enrollFingerprint": {"pin": It.PIN}}}},
    ),
    Call(
        "Mutation.deviceCommandSend",
        "doors:unlock",
        {"input": {"deviceId": It.DEVICE, "command": {"unlockDoor": {}}}},
    ),
    Call("Mutation.deviceCommandCancel", "devices:write", {"input": {"id": It.COMMAND}}),
    Call(
        "Mutation.deviceBackfill",
        "devices:write",
        {"input": {"deviceId": It.DEVICE, "from": "2026-03-01T00:00:00", "to": "2026-03-02T00:00:00"}},
    ),
    Call("Mutation.employeeUpsert", "employees:write", {"input": {"pin": "77", "name": "Z"}}),
    Call(
        "Mutation.employeeBulkUpsert",
        "employees:write",
        {"input": {"employees": [{"pin": "78", "name": "Y"}, {"pin": "79"}]}},
    ),
    Call("Mutation.employeeDelete", "employees:write", {"input": {"id": It.EMPLOYEE}}),
    Call("Mutation.apiKeyCreate", "keys:write", {"input": {"name": "second", "scopes": ["keys:write"]}}),
    Call("Mutation.apiKeyRotate", "keys:write", {"input": {"id": It.KEY}}),
    Call("Mutation.apiKeyRevoke", "keys:write", {"input": {"id": It.SPARE_KEY}}),
    Call("Mutation.streamTokenCreate", "punches:read", {"input": {"siteIds": [It.SITE]}}),
    Call("Mutation.enrollmentRotate", "devices:write", {"input": {}}),
    Call("Mutation.webhookEndpointCreate", "webhooks:write", {"input": {"url": "https://r.example/"}}),
    Call("Mutation.webhookEndpointUpdate", "webhooks:write", {"input": {"id": It.ENDPOINT, "status": "PAUSED"}}),
    Call("Mutation.webhookEndpointDelete", "webhooks:write", {"input": {"id": It.ENDPOINT}}),
    Call("Mutation.webhookEndpointRotateSecret", "webhooks:write", {"input": {"id": It.ENDPOINT}}),
    Call("Mutation.webhookEndpointTest", "webhooks:write", {"input": {"id": It.ENDPOINT}}),
    Call("Mutation.webhookDeliveryRetry", "webhooks:write", {"input": {"id": It.DELIVERY}}),
    Call(
        "Mutation.webhookReplay",
        "webhooks:write",
        {"input": {"endpointId": It.ENDPOINT, "since": "2026-03-01T00:00:00Z", "eventTypes": ["punch.created"]}},
    ),
    # ── subscriptions ────────────────────────────────────────────────────────────────────────────────
    Call("Subscription.punches", "punches:read", {"from": "BEGINNING"}),
    Call("Subscription.deviceChanged", "devices:read", {"deviceIds": [It.DEVICE]}),
    Call("Subscription.webhookDeliveryChanged", "webhooks:read", {"endpointIds": [It.ENDPOINT]}),
    Call("Subscription.deviceCommandChanged", "devices:read", {"commandIds": [It.COMMAND]}),
    Call("Subscription.deviceCommandChanged", "devices:read", {"deviceIds": [It.DEVICE], "commandIds": [It.COMMAND]}),
]

#: What belongs where no call has it.
NAMES = {
    "ApiKeyCreateInput.name": It.KEY_NAME,
    "AuditFilter.apiKeyIds": It.KEY,
    "AuditFilter.targetIds": It.DEVICE,
    "DeviceApproveInput.name": It.DEVICE_NAME,
    "DeviceApproveInput.siteId": It.SITE,
    "DeviceCommandFilter.deviceIds": It.DEVICE,
    "DeviceFilter.siteIds": It.SITE,
    "DeviceRegisterInput.name": It.DEVICE_NAME,
    "DeviceRegisterInput.serialNumber": It.SERIAL,
    "DeviceUpdateInput.name": It.DEVICE_NAME,
    "DeviceUpdateInput.siteId": It.SITE,
    "EmployeeFilter.externalIds": It.EXTERNAL_ID,
    "EmployeeFilter.search": It.PERSON,
    "EmployeeRowInput.cardNumber": It.CARD,
    "EmployeeRowInput.deviceIds": It.DEVICE,
    "EmployeeRowInput.externalId": It.EXTERNAL_ID,
    "EmployeeRowInput.name": It.PERSON,
    "EmployeeRowInput.pin": It.PIN,
    "EmployeeUpsertInput.cardNumber": It.CARD,
    "EmployeeUpsertInput.deviceIds": It.DEVICE,
    "EmployeeUpsertInput.externalId": It.EXTERNAL_ID,
    "EmployeeUpsertInput.name": It.PERSON,
    "EmployeeUpsertInput.pin": It.PIN,
    "PunchFilter.deviceIds": It.DEVICE,
    "PunchFilter.employeeIds": It.EMPLOYEE,
    "PunchFilter.pins": It.PIN,
    "PunchFilter.siteIds": It.SITE,
    "SiteCreateInput.name": It.SITE_NAME,
    "SiteUpdateInput.name": It.SITE_NAME,
    "WebhookDeliveryFilter.endpointIds": It.ENDPOINT,
    "WebhookDeliveryFilter.eventIds": It.EVENT,
    "WebhookEndpointCreateInput.description": It.NOTE,
    "WebhookEndpointCreateInput.url": It.URL,
    "WebhookEndpointUpdateInput.description": It.NOTE,
    "WebhookEndpointUpdateInput.url": It.URL,
}

#: Texts that name nothing of a tenant's.
PLAIN = {
    "ApiKeyCreateInput.scopes",
    "AuditFilter.actions",
    "DeviceApproveInput.timeZone",
    "DeviceRegisterInput.timeZone",
    "DeviceUpdateInput.timeZone",
    "SiteCreateInput.timeZone",
    "SiteUpdateInput.timeZone",
    "WebhookDeliveryFilter.eventTypes",
    "WebhookEndpointCreateInput.eventTypes",
    "WebhookEndpointUpdateInput.eventTypes",
    "WebhookReplayInput.eventTypes",
}


def calls_of(*roots: str) -> list[Call]:
    """The calls of these root types; those of nested fields count as queries."""
    return [call for call in CALLS if (head if (head := call.field.partition(".")[0]) in ROOTS else "Query") in roots]


def fields() -> dict[str, GraphQLField]:
    """What has to have a call: every root field, and every other field with an argument."""
    return {
        f"{kind.name}.{name}": field
        for kind in object_types()
        for name, field in kind.fields.items()
        if kind.name in ROOTS or field.args
    }


def object_types() -> list[GraphQLObjectType]:
    """Every type that goes out."""
    return [
        kind
        for kind in schema.core.type_map.values()
        if isinstance(kind, GraphQLObjectType) and not kind.name.startswith("__")
    ]


def field_of(coordinate: str) -> GraphQLField:
    """A field by its coordinate."""
    parent, _, name = coordinate.partition(".")
    kind = schema.core.type_map[parent]
    assert isinstance(kind, GraphQLObjectType)
    field: GraphQLField = kind.fields[name]
    return field


@cache
def spots() -> list[Spot]:
    """Every place where a caller may write an id or a text that belongs to somebody."""
    return [spot for _, spot in _look() if spot is not None]


def leads() -> set[str]:
    """Every field below the roots that is computed and takes no arguments, less the wrapping of lists."""
    found = set()
    for kind in object_types():
        definition = schema.get_type_by_name(kind.name)
        if kind.name in ROOTS or not isinstance(definition, StrawberryObjectDefinition):
            continue
        named = schema.config.name_converter.get_graphql_name
        computed = {named(field) for field in definition.fields if field.base_resolver is not None}
        if not kind.name.endswith("Connection"):
            found |= {f"{kind.name}.{name}" for name in computed if not kind.fields[name].args}
    return found


def gaps() -> list[str]:
    """What is in the schema and not here, with what to do about it."""
    called = {call.field for call in CALLS}
    missing = [
        f"{field} has no call: add one to CALLS, with arguments under which it works" for field in sorted(fields())
        if field not in called
    ]  # fmt: skip
    unnamed = {
        f"{coordinate} takes an id or a text: say in NAMES what of a tenant's belongs there, or in PLAIN that it names "
        "nothing"
        for coordinate, spot in _look()
        if spot is None and coordinate not in PLAIN
    }
    below = [
        f"{field} is computed: say in BELOW which scope it asks for, or None where it comes with its object"
        for field in sorted(leads() - BELOW.keys())
    ]
    return [*missing, *below, *sorted(unnamed)]


def _look() -> Iterator[tuple[str, Spot | None]]:
    """Every place for an id or a text; with a spot unless nobody said what belongs there."""
    for coordinate in fields():
        calls = [call for call in CALLS if call.field == coordinate]
        seen: set[tuple[str, ...]] = set()
        for call in calls:
            for path, leaf in _leaves(coordinate):
                if isinstance(it := _at(call.arguments, path), It):
                    seen.add(path)
                    yield leaf, Spot(call, path, leaf, it)
        for path, leaf in _leaves(coordinate) if calls else ():
            if path not in seen:
                it = _usual(path[-1]) or NAMES.get(leaf)
                yield leaf, None if it is None else Spot(calls[0], path, leaf, it)


def _usual(name: str) -> It | None:
    return {"idempotencyKey": It.IDEMPOTENCY_KEY, "after": It.CURSOR, "before": It.CURSOR}.get(name)


def _leaves(field: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every path to an id or a text in a field's arguments, with the coordinate of its last step."""

    def walk(
        type_: GraphQLInputType, path: tuple[str, ...], coordinate: str, above: tuple[str, ...]
    ) -> Iterator[tuple[tuple[str, ...], str]]:
        named = get_named_type(type_)
        if isinstance(named, GraphQLInputObjectType):
            if named.name not in above:
                for name, below in named.fields.items():
                    yield from walk(below.type, (*path, name), f"{named.name}.{name}", (*above, named.name))
        elif named.name in ("ID", "String"):
            yield path, coordinate

    for name, argument in field_of(field).args.items():
        yield from walk(argument.type, (name,), f"{field}({name}:)", ())


def _at(value: Any, path: tuple[str, ...]) -> Any:
    """What stands there; the first of a list."""
    while isinstance(value, list):
        value = value[0] if value else None
    if not path or not isinstance(value, Mapping):
        return value if not path else None
    return _at(value.get(path[0]), path[1:])


def _put(type_: GraphQLInputType, base: Any, path: list[str], value: Any) -> Any:
    if isinstance(type_, GraphQLNonNull):
        return _put(type_.of_type, base, path, value)
    if isinstance(type_, GraphQLList):
        first, *rest = base or [None]
        return [_put(type_.of_type, first, path, value), *rest]
    if not path:
        return value
    assert isinstance(type_, GraphQLInputObjectType)
    name, *rest = path
    below = (base or {}).get(name)
    return {**(base or {}), name: _put(type_.fields[name].type, below, rest, value)}


def fill(value: Any, names: Mapping[It, str]) -> Any:
    """The same with names for every `It`."""
    if isinstance(value, It):
        return names[value]
    if isinstance(value, Mapping):
        return {name: fill(each, names) for name, each in value.items()}
    if isinstance(value, list):
        return [fill(each, names) for each in value]
    return value


def select(type_: GraphQLOutputType, depth: int, on: str = "") -> str:
    """All the leaves of a type and of what is below it, down to `depth`; the wrapping of lists and answers is free."""
    kind = get_named_type(type_)
    if is_leaf_type(kind):
        return ""
    if isinstance(kind, GraphQLInterfaceType):
        return f" {{ __typename ... on {on}{select(schema.core.type_map[on], depth)} }}"  # type: ignore[arg-type]
    assert isinstance(kind, GraphQLObjectType)
    wraps = kind.name.endswith(("Connection", "Payload"))
    parts = []
    for name, field in kind.fields.items():
        below = get_named_type(field.type)
        if any(is_required_argument(argument) for argument in field.args.values()):
            continue
        if is_leaf_type(below) and depth:
            parts.append(name)
        elif depth and (wraps or depth > 1) and not (kind.name.endswith("Edge")):
            page = f"(first: {FEW})" if "first" in field.args else ""
            parts.append(f"{name}{page}{select(field.type, depth if wraps else depth - 1)}")
    return f" {{ {' '.join(parts or ['__typename'])} }}"
