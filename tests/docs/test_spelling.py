"""One spelling for one word, in all that people read: British, and as makers write their own names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import ROOT, name

#: What is not written -> what is, by a pattern for whole words. Code, in fences or between backticks, may say anything.
LIST: Final[dict[str, str]] = {
    r"behaviors?": "behaviour",
    r"colors?": "colour",
    r"favorite": "favourite",
    r"recogniz\w+": "recognise",
    r"organiz\w+": "organise",
    r"normaliz\w+": "normalise",
    r"serializ\w+": "serialise",
    r"initializ\w+": "initialise",
    r"authoriz\w+": "authorise",
    r"canceled|canceling": "cancelled",
    r"labeled|labeling": "labelled",
    r"enrollments?": "enrolment",
    r"catalogs?": "catalogue",
    r"center(?:ed)?": "centre",
    r"gray": "grey",
    r"emails?": "e-mail",
    r"web hooks?|web-hooks?": "webhook",
    r"time-zones?|timezones?": "time zone",
    r"web sockets?|[Ww]ebsockets?": "WebSocket",
    r"[Pp]ostgres|Postgresql|postgreSQL": "PostgreSQL",
    r"[Gg]raph[Qq]l": "GraphQL",
    r"Javascript|javascript": "JavaScript",
    r"Github|github": "GitHub",
    r"ZkTeco|Zkteco|ZKteco|ZKTECO": "ZKTeco",
    r"[Pp]unchconnect|Punch Connect": "PunchConnect",
    r"Open ?[Tt]elemetry(?<!OpenTelemetry)": "OpenTelemetry",
    r"[Tt]eh": "the",
    r"recieve\w*": "receive",
    r"seperat\w+": "separate",
    r"occured": "occurred",
    r"adress\w*": "address",
    r"wich": "which",
    r"lenght": "length",
    r"succes(?:ful\w*)?": "success",
    r"untill": "until",
    r"priviled\w+": "privilege",
    r"existant": "existent",
    r"dependan(?:t|cy)": "dependent",
    r"accross": "across",
    r"allways": "always",
    r"begining": "beginning",
    r"commited": "committed",
    r"refered": "referred",
    r"transfered": "transferred",
    r"writting": "writing",
    r"its'": "its",
    r"can not": "cannot",
}
PAGES: Final = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "frontend-examples").glob("*/README.md")),
)
#: Made from the program, whose names are code.
MADE: Final = {"docs/reference/graphql.md", "docs/reference/cli.md", "docs/reference/samples.md"}
_CODE: Final = re.compile(
    r"^(?P<fence>```|~~~).*?^(?P=fence)|^ *```.*?^ *```|`[^`]*`|\]\([^)]*\)|<[^>]+>", re.MULTILINE | re.DOTALL
)


def faults(text: str) -> list[str]:
    """What the list knows better."""
    prose = _CODE.sub(" ", text)
    return [
        f"{found[0]}: {right}"
        for wrong, right in LIST.items()
        for found in re.finditer(rf"(?<![\w/.@-])(?:{wrong})(?![\w/@-]|\.\w)", prose)
        if found[0] != right
    ]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_keeps_to_the_spelling_list(page: Path) -> None:
    if name(page) in MADE:
        pytest.skip("made from the program")

    assert faults(page.read_text()) == []


def test_the_list_sees_words_and_not_code() -> None:
    assert faults("A color, `color`, and\n```sh\ncolor\n```\n[color](color.md) of the e-mail.") == [
        "color: colour",
        "color: colour",
    ]
    assert faults("PunchConnect recognises WebSockets, GraphQL and PostgreSQL.") == []
