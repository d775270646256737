"""What the command line refuses: wrong usage with 2, what cannot be done with 1, both in one line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import cli
from app.simulator import Report, TerminalReport
from tests.conftest import SECRET_KEY
from tests.server import listen

ROOT = Path(__file__).parents[2]
#: Seconds in which a command that refuses has ended.
WITHIN = 60
#: An address that no machine has, and a name that nobody has.
ELSEWHERE, NOBODY = "192.0.2.7", "nope.invalid"


@pytest.fixture(autouse=True)
def _unset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is configured: what gets past its arguments fails, and starts nothing."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PUNCHCONNECT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli, "REACHED_WITHIN", 0.1)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[object, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    return ended.value.code, said.err.strip()


@pytest.mark.parametrize(
    ("command", "option", "value", "bound"),
    [
        ("dev --data-dir /dev/null/here", "--port", "70000", "Must be <= 65535."),
        ("dev --data-dir /dev/null/here", "--port", "-1", "Must be >= 1."),
        ("dev --data-dir /dev/null/here", "--port", "0", "Must be >= 1."),
        ("dev --data-dir /dev/null/here", "--devices", "-1", "Must be >= 0."),
        ("dev --data-dir /dev/null/here", "--workers", "-1", "Must be >= 0."),
        ("serve", "--port", "70000", "Must be <= 65535."),
        ("serve", "--port", "-1", "Must be >= 0."),
        ("serve", "--processes", "0", "Must be >= 1."),
        ("work", "--concurrency", "0", "Must be >= 1."),
        ("work", "--metrics-port", "70000", "Must be <= 65535."),
        ("simulate --url http://127.0.0.1:1", "--devices", "0", "Must be >= 1."),
        ("simulate --url http://127.0.0.1:1", "--employees", "0", "Must be >= 1."),
        ("simulate --url http://127.0.0.1:1", "--rate", "0", "Must be > 0."),
        ("simulate --url http://127.0.0.1:1", "--rate", "inf", "Must be < inf."),
        ("simulate --url http://127.0.0.1:1", "--duration", "nan", "Must be >= 0."),
        ("simulate --url http://127.0.0.1:1", "--duration", "-1", "Must be >= 0."),
    ],
)
def test_a_number_out_of_its_range_is_wrong_usage_and_starts_nothing(
    capsys: pytest.CaptureFixture[str], command: str, option: str, value: str, bound: str
) -> None:
    answer = refused(capsys, *command.split(), option, value)

    number = str(float(value)) if option in {"--rate", "--duration"} else value
    assert answer[0] == 2
    assert answer[1] in {f'Invalid value "{shown}" for {option}. {bound}' for shown in (value, number)}


@pytest.mark.parametrize("place", ["letter", "letter/below"])
def test_a_file_is_no_data_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path, place: str) -> None:
    (tmp_path / "letter").write_text("Dear all")

    answer = refused(capsys, "dev", "--data-dir", place)

    assert answer == (
        1,
        f"{place} cannot be the data directory: it is a file, or below one. Name another by --data-dir.",
    )
    assert (tmp_path / "letter").read_text() == "Dear all"


@pytest.mark.parametrize(
    ("host", "sentence"),
    [
        (NOBODY, f"No host is known as '{NOBODY}'. Name an address of this machine by --host."),
        (ELSEWHERE, f"{ELSEWHERE} is not an address of this machine. Name one that is by --host."),
    ],
)
def test_dev_says_in_one_line_that_it_cannot_listen_at_a_host(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, host: str, sentence: str
) -> None:
    answer = refused(capsys, "dev", "--host", host, "--data-dir", "data")

    assert answer == (1, sentence)
    assert [found.name for found in (tmp_path / "data").iterdir()] == ["dev.lock"]


@pytest.mark.parametrize(
    ("trouble", "shown"),
    [
        ("refused: 404 There is nothing here.", "refused: 404 There is nothing here"),
        ("cut short: 3", "cut short: 3"),
        (None, "no answer"),
    ],
)
def test_what_was_left_is_said_in_a_sentence_with_one_end(trouble: str | None, shown: str) -> None:
    terminal = TerminalReport("VIRT000001", 7, 5, 2, 0, 0, 0, 0, 0, 0, last_trouble=trouble)

    assert cli._left(Report("steady", 1.0, (terminal,))) == f"2 records were not acknowledged: {shown}."


def run(*python: str) -> tuple[int, list[str]]:
    """The exit code and the lines on standard error of a process that has its settings, and ends by itself."""
    settings = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none", "SECRET_KEY": SECRET_KEY}
    env = os.environ | {f"PUNCHCONNECT_{name}": value for name, value in settings.items()}
    ended = subprocess.run(
        [sys.executable, *python],
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WITHIN,
        check=False,
    )
    assert ended.stdout == ""
    return ended.returncode, ended.stderr.splitlines()


@pytest.mark.parametrize("command", ["serve --port", "work --metrics-port"])
def test_a_port_that_is_taken_is_said_in_one_line(command: str) -> None:
    with listen() as other:
        other.listen()
        port = other.getsockname()[1]
        answer = run("-m", "app.cli", *command.split(), str(port))

    option = command.split()[1]
    said = f"Port {port} on 127.0.0.1 is taken. End what listens there, or name another by {option}."
    assert answer == (1, [said])


@pytest.mark.parametrize("host", [NOBODY, ELSEWHERE])
def test_where_it_cannot_listen_serve_says_so_in_one_line(host: str) -> None:
    code, said = run("-m", "app.cli", "serve", "--host", host)

    assert (code, len(said)) == (1, 1)
    assert host in said[0]
    assert said[0].endswith("by --host.")


def test_a_port_that_is_taken_in_between_ends_with_1_as_well() -> None:
    with listen() as other:
        other.listen()
        port = other.getsockname()[1]
        too_early = "from app import cli, listening; listening.ask = lambda *_: None"
        code, said = run("-c", f"{too_early}; cli.main(['serve', '--port', '{port}'])")

    assert code == 1
    assert said[-1] == "The server did not start; the log above says why."
