"""docs/reference/samples.md, out of frontend-examples/samples. `python -m tests.checks --write` renews it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = ROOT / "docs" / "reference" / "samples.md"
FOLDER: Final = ROOT / "frontend-examples" / "samples"
#: Ending, what people call it, what the page calls it.
LANGUAGES: Final = (
    ("py", "Python", "py"),
    ("mjs", "JavaScript", "js"),
    ("sh", "cURL", "bash"),
    ("php", "PHP", "php"),
    ("rb", "Ruby", "ruby"),
)
TOPICS: Final = (
    ("pages", "Read a list, page by page", "Go on with `endCursor` for as long as `hasNextPage` says so."),
    (
        "write",
        "Write, safely to repeat",
        "The same `Idempotency-Key` does it once: see [Idempotent writes](../guides/idempotent-writes.md).",
    ),
    (
        "follow",
        "Follow punches as they happen",
        "Server-sent events, which every language can read. The last cursor goes along when the connection is made "
        "anew, so nothing is missed and nothing comes twice: see [Live feed](feed.md#server-sent-events).",
    ),
    (
        "verify",
        "Verify a webhook",
        "Over the bytes as they came: see [Webhooks](webhooks.md#verifying). Here the body comes on stdin, and "
        "`webhook-id`, `webhook-timestamp` and `webhook-signature` in the environment.",
    ),
)
_HEAD: Final = """# Samples in five languages

Whole programs without dependencies. `PUNCHCONNECT_URL` is the address of `/graphql`, `PUNCHCONNECT_KEY` an API key.
The tests run each of them against a server. This page is written from the files in `frontend-examples/samples`.

"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for stem, title, words in TOPICS:
        parts.append(f"## {title}\n\n{words}\n\n")
        for ending, name, shown in LANGUAGES:
            text = (FOLDER / f"{stem}.{ending}").read_text("utf-8").strip("\n")
            parts.append(f"**{name}**, `{stem}.{ending}`\n\n```{shown}\n{text}\n```\n\n")
    return "".join(parts).rstrip("\n") + "\n"
