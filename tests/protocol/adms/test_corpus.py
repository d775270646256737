"""Every captured request means what its neighbour says."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from protocol.adms import security
from protocol.adms.commands import CommandResult
from protocol.adms.records import (
    AttLog,
    Columns,
    Keyed,
    OperLog,
    Photo,
    Template,
    UserInfo,
    answers_with_count,
    count_records,
    name_columns,
    option,
    read_attlog,
    read_options,
    read_photo,
    read_tagged,
)
from protocol.adms.replies import ok, options_block, time_reply
from protocol.adms.requests import (
    CommandReport,
    ConfigurationRequest,
    Heartbeat,
    Hello,
    Ping,
    Poll,
    Registration,
    RemoteLookup,
    Request,
    TableUpload,
    TimeRequest,
    Upload,
    endpoint_of,
    read_request,
)
from tests.corpus import ATTENDANCE, SAMPLES, SECURITY, Sample

# What the terminal of a sample announced, where the columns depend on it and the sample is of an upload alone.
ANNOUNCED = {"006-attlog-tft-jobcodes": ("att", "3.2.0"), "009-attlog-idcard-pid": ("pid", "2.4.0")}
TABLES_OF_LINES = {"OPERLOG", "USERINFO", "BIODATA", "ERRORLOG"}


def request_of(sample: Sample) -> Request:
    return read_request(sample.method, endpoint_of(sample.path_tail), sample.query, sample.body)


def punch(sample: Sample, log: AttLog) -> tuple[dict[str, Any], Columns]:
    """A record in the words of the samples."""
    columns = name_columns(log, *ANNOUNCED.get(sample.id, (None, None)))
    words: dict[str, Any] = {
        "pin": log.pin,
        "time": str(log.wall_time),
        "status": str(log.state),
        "verify": str(log.verify),
        "work_code": log.work_code,
        "extra": list(log.extra),
        "trailing_tab": log.trailing_tab,
        "raw": log.raw.decode(),
    }
    if columns.record_type is not None:
        words |= {"id_number": columns.id_number, "record_type": str(columns.record_type)}
    if columns.job_codes:
        words |= {"job_codes": list(columns.job_codes), "tip_codes": list(columns.tip_codes)}
    return words, columns


def attlog(sample: Sample, upload: Upload) -> dict[str, Any]:
    batch = read_attlog(upload.body)
    assert batch.unreadable == []
    words = [punch(sample, log) for log in batch.records]
    meaning: dict[str, Any] = {
        "punches": [entry for entry, columns in words if not columns.is_identity_check],
        "verifications": [entry for entry, columns in words if columns.is_identity_check],
        "record_count": batch.record_count,
        "stamp": upload.stamp,
        "skipped_lines": ["TABLE=ATTLOG"] * batch.skipped,
    }
    return meaning


def lines(upload: Upload) -> dict[str, Any]:
    batch = read_tagged(upload.table, upload.body)
    assert batch.unreadable == []
    meaning: dict[str, Any] = {
        "record_count": batch.record_count,
        "stamp": upload.stamp,
        "skipped_lines": [f"TABLE={upload.table}"] * batch.skipped,
        "operlog": [],
        "users": [],
        "templates": [],
        "photos": [],
        "errorlog": [],
    }
    for record in batch.records:
        match record:
            case OperLog():
                entry = {
                    "op": str(record.operation),
                    "admin": record.admin,
                    "time": str(record.wall_time),
                    "objects": list(record.objects),
                    "raw": record.raw.decode(),
                }
                meaning["operlog"].append(entry)
            case UserInfo():
                card = {"card_hex": record.card_hex} if record.card_hex else {}
                meaning["users"].append({**record.fields, **card})
            case Template():
                meaning["templates"].append({**record.fields, "kind": record.kind})
            case Photo():
                meaning["photos"].append({**record.fields, "kind": record.kind})
            case Keyed(kind="ERRORLOG"):
                meaning["errorlog"].append(record.fields)
    return meaning


def photo(upload: Upload) -> dict[str, Any]:
    taken = read_photo(upload.body)
    entry = {
        "kind": upload.table,
        "file": taken.file,
        "time": str(taken.wall_time),
        "pin": taken.pin,
        "size": taken.size,
        "cmd": taken.command,
        "bytes": len(taken.image),
    }
    return {"photos": [entry]}


def handshake(hello: Hello) -> dict[str, Any]:
    words = {
        "pushver": hello.pushver,
        "language": hello.language,
        "device_type": hello.device_type,
        "pushcommkey": hello.pushcommkey,
        "push_options_flag": "1" if hello.push_options_flag else None,
    }
    return {"handshake": words}


def info(poll: Poll) -> dict[str, Any]:
    if poll.info is None:
        return {"kind": "poll"}
    words = {name: str(value) for name, value in asdict(poll.info).items() if name != "values" and value is not None}
    assert list(words.values()) == list(poll.info.values)
    return {"info": words}


def result(read: CommandResult) -> dict[str, Any]:
    words: dict[str, Any] = {"id": read.id, "return": str(read.return_code), "cmd": read.cmd}
    if read.content is not None:
        words["content"] = read.content.decode()
    if read.attributes:
        words["attributes"] = read.attributes
    return words


def meaning_of(sample: Sample) -> dict[str, Any]:  # noqa: PLR0911 (one for each kind)
    """What we read, in the words of the samples; more than one of them asks for."""
    request = request_of(sample)
    match request:
        case Upload(table="ATTLOG"):
            return attlog(sample, request)
        case Upload(table="ATTPHOTO"):
            return photo(request)
        case Upload(table="OPTIONS"):
            return {"options": read_options(request.body)}
        case Upload(table=table) if table in TABLES_OF_LINES:
            return lines(request)
        case Hello():
            return handshake(request)
        case Poll():
            return info(request)
        case CommandReport():
            return {"command_results": [result(read) for read in request.results]}
        case Heartbeat():
            return {"kind": "heartbeat"}
        case TimeRequest():
            return {"kind": "time-request"}
        case RemoteLookup():
            return {"kind": "remote-user-request", "pin": request.pin}
    raise AssertionError(request)


@pytest.mark.parametrize("sample", ATTENDANCE, ids=lambda sample: sample.id)
def test_an_attendance_sample_means_what_its_neighbour_says(sample: Sample) -> None:
    meaning = meaning_of(sample)

    if "handshake" in meaning:
        # A handshake sample names only what it is about.
        meaning["handshake"] = {key: meaning["handshake"][key] for key in sample.expect["handshake"]}
    assert {key: meaning[key] for key in sample.expect} == sample.expect
    left = {key: value for key, value in meaning.items() if key not in sample.expect and value}
    assert left.keys() <= {"record_count", "stamp"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.id)
def test_every_sample_names_its_terminal_and_endpoint(sample: Sample) -> None:
    named = sample.expected["request"]

    request = request_of(sample)

    assert request.serial == named["sn"]
    assert endpoint_of(sample.path_tail) == named["endpoint"]
    if sample.method == "POST" and named["endpoint"] == "cdata" and named["table"]:
        assert isinstance(request, Upload | TableUpload)
        spelled = request.kind if isinstance(request, TableUpload) else request.table
        assert spelled.lower() == named["table"].lower()
        assert request.body == sample.body


ANSWERED = [sample for sample in ATTENDANCE if "body_any_of" in sample.expected["reply"]]


@pytest.mark.parametrize("sample", ANSWERED, ids=lambda sample: sample.id)
def test_our_answer_is_among_those_the_terminal_takes(sample: Sample) -> None:
    request = request_of(sample)

    if isinstance(request, Upload) and answers_with_count(request.table):
        answer = ok(count_records(request.table, request.body))
        assert answer == f"OK: {sample.expect['record_count']}".encode()
    else:
        answer = ok()

    assert answer.decode() in sample.expected["reply"]["body_any_of"]


HANDSHAKES = [sample for sample in ATTENDANCE if "handshake" in sample.expect]


@pytest.mark.parametrize("sample", HANDSHAKES, ids=lambda sample: sample.id)
def test_the_option_block_greets_the_terminal_as_it_expects(sample: Sample) -> None:
    serial = request_of(sample).serial

    block = options_block(serial, stamps={}, time_zone_offset=timedelta(hours=8), delay=10, error_delay=30)

    assert block.decode().split("\n")[0] == sample.expected["reply"]["first_line"]


OLD_AND_NEW = [sample for sample in HANDSHAKES if sample.response]


@pytest.mark.parametrize("sample", OLD_AND_NEW, ids=lambda sample: sample.id)
def test_the_option_block_has_every_option_a_terminal_was_given_before(sample: Sample) -> None:
    assert sample.response is not None
    given = {line.split("=")[0] for line in sample.response.decode().split("\r\n\r\n")[1].split("\n")[1:]}

    block = options_block("X", stamps={}, time_zone_offset=timedelta(hours=8), delay=10, error_delay=30).decode()

    assert given <= {line.split("=")[0] for line in block.split("\n")[1:]}


def test_the_time_is_told_as_the_manual_tells_it() -> None:
    (sample,) = [sample for sample in ATTENDANCE if sample.id == "050-cdata-type-time"]
    assert sample.response is not None
    at = datetime(2011, 5, 5, 22, 40, 20, tzinfo=UTC).astimezone(timezone(timedelta(hours=-5)))

    answer = time_reply(at)

    assert sample.response.endswith(b"\r\n\r\n" + answer)


def test_options_are_found_with_and_without_their_tilde() -> None:
    (sample,) = [sample for sample in ATTENDANCE if sample.id == "045-options-push-x903"]

    options = read_options(sample.body)

    assert option(options, "DeviceName") == "X903"
    assert option(options, "~maxattlogcount") == "5"
    assert option(options, "~MAC") == "00:17:61:00:00:01"
    assert option(options, "RegDeviceType") is None
    assert option(options, "NoSuchOption") is None


def events(upload: Upload) -> dict[str, Any]:
    batch = security.read_events(upload.body)
    assert batch.unreadable == []
    punches = [
        {
            "pin": event.pin,
            "time": str(event.wall_time),
            "status": str(event.state),
            "verify": str(event.verify),
            "raw": event.raw.decode(),
        }
        for event in batch.records
        if event.is_punch
    ]
    return {"events": [event.fields for event in batch.records], "punches": punches, "record_count": batch.record_count}


def rows(upload: TableUpload) -> dict[str, Any]:
    found = [security.read_fields(line) for line in upload.body.split(b"\n") if line.strip()]
    meaning: dict[str, Any] = {
        {"user": "users", "errorlog": "errorlog"}[upload.table]: found,
        "record_count": count_records(upload.table, upload.body),
    }
    if upload.command_id is not None:
        answer = result(security.query_result(upload.command_id, upload.count or 0))
        meaning |= {"command_results": [{**answer, "via": "querydata"}], "packet": {"index": 1, "count": 1}}
        assert upload.packet is None
    return meaning


def security_meaning_of(sample: Sample) -> dict[str, Any]:  # noqa: PLR0911 (one for each kind)
    request = request_of(sample)
    match request:
        case Upload(table="RTLOG"):
            return events(request)
        case Upload(table="RTSTATE"):
            states = [security.read_fields(line) for line in request.body.split(b"\n") if line.strip()]
            return {"states": states, "punches": []}
        case TableUpload():
            return rows(request)
        case Registration():
            return {"options": request.options}
        case ConfigurationRequest():
            return {"kind": "config-request"}
        case Ping():
            return {"kind": "ping"}
        case TimeRequest(encoded=True):
            return {"kind": "time-request"}
    return meaning_of(sample)


@pytest.mark.parametrize("sample", SECURITY, ids=lambda sample: sample.id)
def test_a_security_sample_means_what_its_neighbour_says(sample: Sample) -> None:
    # The token proves nothing (the manual's own examples do not fit its formula), and what we say is tried below.
    wanted = {key: value for key, value in sample.expect.items() if key not in {"token", "vendor_reply_decodes_to"}}

    meaning = security_meaning_of(sample)

    if "handshake" in meaning:
        meaning["handshake"] = {key: meaning["handshake"][key] for key in wanted["handshake"]}
    assert {key: meaning[key] for key in wanted} == wanted


def sample_named(prefix: str) -> Sample:
    (found,) = [sample for sample in SECURITY if sample.id.startswith(prefix)]
    return found


def test_what_a_security_unit_is_told_is_spelled_as_the_manual_spells_it() -> None:
    told = {prefix: sample_named(prefix).response or b"" for prefix in ("051", "070", "072")}
    at = datetime(2018, 2, 22, 6, 36, 30)  # noqa: DTZ001

    assert told["051"].endswith(b"\r\n\r\n" + security.time_reply(at, 480))
    assert told["070"].endswith(b"\r\n\r\n" + security.registered("Uy47fxftP3"))
    keys = [line.split("=")[0] for line in told["072"].decode().split("\r\n\r\n")[1].split("\n")]
    block = security.configuration("A" * 32, version="3.0.1", delay=2, error_delay=60)
    assert [line.split("=")[0] for line in block.decode().split("\n")] == keys
    assert len(block) == 218


def test_the_corpus_is_whole() -> None:
    announced = {sample.id: int(sample.headers.get("content-length", "0")) for sample in SAMPLES}

    assert announced == {sample.id: len(sample.body) for sample in SAMPLES}
    assert (len(ATTENDANCE), len(SECURITY)) == (47, 13)
