"""The quickstart keeps its promise, from a clean clone. What it took is printed, and kept in build/quickstart.json."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.docs import quickstart
from tests.docs.pages import ROOT


def test_the_page_starts_from_a_clone() -> None:
    assert quickstart.commands() == ["git clone ADDRESS punchconnect", "cd punchconnect", "make dev"]


@pytest.mark.full
def test_from_a_clone_to_the_first_signed_webhook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no clone: there is nothing to clone from")
    for program in ("bash", "curl", "git", "make"):
        if shutil.which(program) is None:
            pytest.skip(f"the quickstart needs {program}")

    taken = quickstart.run(tmp_path)

    (ROOT / "build").mkdir(exist_ok=True)
    (ROOT / "build" / "quickstart.json").write_text(json.dumps(taken.seconds, indent=2) + "\n")
    with capsys.disabled():
        print(f"\n{quickstart.report(taken)}")
    assert len(re.findall(r'"localTime":"[^"]+","direction":"(?:CHECK|BREAK)_', taken.shown)) == 2
    assert '"errors"' not in taken.shown
    assert "OK: 1" in taken.shown
    assert '"pin":"0099"' in taken.shown
    assert "punch.created" in taken.shown
    assert taken.after_installation < quickstart.PROMISED
    assert taken.seconds["webhook"] < quickstart.PROMISED_WITH_INSTALLATION
