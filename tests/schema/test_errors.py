"""How errors are shown: refusals with their sentence, everything else without."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import structlog
from graphql import GraphQLError

from app import ids
from app.domain import sites
from app.domain.devices import DeviceNotFound
from app.domain.events import CursorExpired
from app.errors import AppError
from schema.errors import present, registry
from tests.schema.conftest import Caller, MakeCaller

SECRET = "postgresql://owner:hunter2@db"


def shown(error: GraphQLError) -> dict[str, Any]:
    return present(error, request_id="req_1", public_url="https://example/")


def test_a_refusal_keeps_its_sentence_its_place_and_its_facts() -> None:
    refused = CursorExpired("AQ")

    entry = shown(GraphQLError(refused.message, path=["punchFeed"], original_error=refused))

    assert entry == {
        "message": "What followed this cursor is no longer kept. Go on from oldestCursor.",
        "path": ["punchFeed"],
        "extensions": {
            "code": "cursor_expired",
            "status": 410,
            "docUrl": "https://example/docs/errors/cursor_expired",
            "requestId": "req_1",
            "retryable": False,
            "oldestCursor": "AQ",
        },
    }


def test_a_refusal_is_found_inside_errors_inside_errors() -> None:
    refused = DeviceNotFound("SN-1")
    inner = GraphQLError("x", original_error=refused)

    entry = shown(GraphQLError("y", path=["device"], original_error=inner))

    assert (entry["message"], entry["extensions"]["code"]) == (
        "No device with serial number 'SN-1'.",
        "device_not_found",
    )


@pytest.mark.parametrize("cause", [ValueError(SECRET), KeyError(SECRET), RuntimeError(SECRET), AssertionError(SECRET)])
def test_what_is_not_a_refusal_is_logged_and_hidden(cause: Exception) -> None:
    with structlog.testing.capture_logs() as lines:
        entry = shown(GraphQLError(str(cause), path=["devices"], original_error=cause))

    assert SECRET not in str(entry)
    assert entry["extensions"] == {
        "code": "internal_error",
        "status": 500,
        "docUrl": "https://example/docs/errors/internal_error",
        "requestId": "req_1",
        "retryable": False,
    }
    assert [(line["event"], line["request_id"], line["exc_info"]) for line in lines] == [
        ("internal_error", "req_1", cause)
    ]


def test_a_value_that_cannot_be_shown_is_our_fault() -> None:
    with structlog.testing.capture_logs():
        entry = shown(GraphQLError("Cannot return null for non-nullable field Punch.device.", path=["punch", "device"]))

    assert entry["extensions"]["code"] == "internal_error"
    assert "Punch.device" not in entry["message"]


async def test_a_resolver_that_breaks_says_only_where_to_look(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_arguments: Any) -> Any:
        raise ValueError(SECRET)

    monkeypatch.setattr(sites, "page", broken)

    with structlog.testing.capture_logs() as lines:
        response = await caller.post("{ __typename sites { nodes { id } } }")

    assert response.status_code == 200
    assert response.json()["data"] == {"__typename": "Query", "sites": None}
    assert SECRET not in response.text
    assert response.json()["errors"][0]["extensions"]["code"] == "internal_error"
    assert [line["request_id"] for line in lines] == [response.headers["x-request-id"]]


async def test_requests_at_once_have_ids_of_their_own(caller: Caller) -> None:
    query = f'{{ site(id: "{ids.show("sit", ids.new())}") {{ id }} }}'

    responses = await asyncio.gather(*(caller.post(query) for _ in range(20)))

    named = [response.headers["x-request-id"] for response in responses]
    assert len(set(named)) == 20
    assert [response.json()["errors"][0]["extensions"]["requestId"] for response in responses] == named


async def test_a_typing_mistake_is_explained_with_its_place(make_caller: MakeCaller) -> None:
    caller = await make_caller()

    error = (await caller.post("{ viewr { apiKey { id } } }")).json()["errors"][0]

    assert error["message"] == "Cannot query field 'viewr' on type 'Query'. Did you mean 'viewer'?"
    assert error["locations"] == [{"line": 1, "column": 3}]


def test_every_code_has_one_meaning_and_a_status() -> None:
    codes = registry()

    assert {"unauthenticated", "permission_denied", "cursor_mismatch", "page_too_large", "internal_error"} <= set(codes)
    for code, kind in codes.items():
        assert issubclass(kind, AppError)
        assert kind.code == code
        assert code == code.lower()
        assert 400 <= kind.status < 600
        assert kind.__doc__


def test_no_two_errors_share_a_code() -> None:
    def below(kind: type[AppError]) -> list[type[AppError]]:
        return [child for direct in kind.__subclasses__() for child in (direct, *below(direct))]

    # The dashboard is an edge of its own, which never meets the API: the same code means the same on both.
    own = [kind for kind in below(AppError) if "code" in vars(kind) and not kind.__module__.startswith("app.web.")]
    codes = [kind.code for kind in own]
    assert sorted(codes) == sorted(set(codes))
