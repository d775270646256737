"""What schemathesis cannot know of us: our scalars, and that a refusal is an answer.

Its own check takes every entry of `errors` for a fault of the server. Here a fault is what we would have to mend: an
internal error, a status of 500 and above, an error without code, or a status of HTTP that says as much.
"""

from __future__ import annotations

from typing import Any

import schemathesis
from hypothesis import strategies
from schemathesis.graphql import nodes

schemathesis.graphql.scalar(
    "DateTime", strategies.sampled_from(["2026-03-01T07:00:04.120Z", "2026-03-01T07:00:04+01:00"]).map(nodes.String)
)
schemathesis.graphql.scalar("LocalDateTime", strategies.just("2026-03-01T08:00:02").map(nodes.String))
schemathesis.graphql.scalar("JSON", strategies.just("{}").map(nodes.String))


@schemathesis.check  # type: ignore[untyped-decorator]
def nothing_but_refusals(ctx: Any, response: Any, case: Any) -> None:
    assert response.status_code < 500, response.text
    for error in response.json().get("errors", []):
        told = error["extensions"]
        assert told["status"] < 500, error
        assert told["code"] != "internal_error", error
        assert told["docUrl"].endswith("/docs/errors/" + told["code"]), error
        assert told["requestId"].startswith("req_"), error
