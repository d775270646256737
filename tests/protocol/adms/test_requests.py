"""What a terminal wants and from whom."""

from __future__ import annotations

import pytest

from protocol.adms.commands import CommandResult
from protocol.adms.errors import BadSerial, MissingSerial
from protocol.adms.requests import (
    CommandReport,
    ConfigurationRequest,
    DeviceInfo,
    Heartbeat,
    Hello,
    Packet,
    Ping,
    Poll,
    Registration,
    RemoteLookup,
    Request,
    TableUpload,
    TimeRequest,
    Unknown,
    Upload,
    endpoint_of,
    read_info,
    read_request,
)


@pytest.mark.parametrize(
    "tail", ["cdata", "cdata/", "cdata.aspx", "cdata.ASPX", "CDATA", "cdata.php", "cdata.aspx/", "/cdata//"]
)
def test_an_endpoint_has_many_spellings(tail: str) -> None:
    assert endpoint_of(tail) == "cdata"


@pytest.mark.parametrize(
    ("tail", "endpoint"), [("", ""), ("/", ""), ("a/b", "a/b"), ("cdata.html", "cdata.html"), ("fdata.aspx", "fdata")]
)
def test_other_paths_stay_what_they_are(tail: str, endpoint: str) -> None:
    assert endpoint_of(tail) == endpoint


@pytest.mark.parametrize(
    ("method", "endpoint", "query", "request_"),
    [
        ("GET", "ping", b"SN=X1", Ping("X1")),
        ("GET", "getrequest", b"SN=X1", Poll("X1")),
        ("GET", "getrequest", b"SN=X1&INFO=", Poll("X1")),
        ("GET", "cdata", b"SN=X1", Heartbeat("X1")),
        ("GET", "cdata", b"sn=X1&agent=9", Heartbeat("X1")),
        ("get", "cdata", b"Sn=X1&TYPE=Time", TimeRequest("X1")),
        ("GET", "cdata", b"SN=X1&table=remoteatt&PIN=0012", RemoteLookup("X1", "0012")),
        ("GET", "cdata", b"SN=X1&table=RemoteAtt", RemoteLookup("X1", None)),
        ("GET", "cdata", b"SN=X1&table=ATTLOG", Unknown("X1", "GET", "cdata", b"SN=X1&table=ATTLOG", b"body")),
        ("GET", "cdata", b"SN=X1&type=LastPunch", Unknown("X1", "GET", "cdata", b"SN=X1&type=LastPunch", b"body")),
        ("PUT", "cdata", b"SN=X1", Unknown("X1", "PUT", "cdata", b"SN=X1", b"body")),
        ("POST", "cdata", b"SN=X1", Unknown("X1", "POST", "cdata", b"SN=X1", b"body")),
        ("POST", "cdata", b"SN=X1&table=", Unknown("X1", "POST", "cdata", b"SN=X1&table=", b"body")),
        ("GET", "fdata", b"SN=X1", Unknown("X1", "GET", "fdata", b"SN=X1", b"body")),
        ("POST", "exchange", b"SN=X1", Unknown("X1", "POST", "exchange", b"SN=X1", b"body")),
        ("POST", "cdata", b"SN=X1&table=attlog&Stamp=9999", Upload("X1", "ATTLOG", "9999", b"body")),
        ("POST", "cdata", b"SN=X1&TABLE=OPERLOG&opstamp=7", Upload("X1", "OPERLOG", "7", b"body")),
        ("POST", "cdata", b"SN=X1&table=OPERLOG&Stamp=8&OpStamp=7", Upload("X1", "OPERLOG", "8", b"body")),
        ("POST", "cdata", b"SN=X1&table=rtLog", Upload("X1", "RTLOG", None, b"body")),
        ("POST", "registry", b"SN=X1", Registration("X1", {})),
        ("GET", "push", b"SN=X1", ConfigurationRequest("X1")),
        ("GET", "rtdata", b"SN=X1&type=time", TimeRequest("X1", encoded=True)),
        (
            "POST",
            "querydata",
            b"SN=X1&type=count&cmdid=7&tablename=user&count=4&packcnt=2&packidx=1",
            TableUpload("X1", "user", 4, b"body", "count", "7", Packet(1, 2)),
        ),
        (
            "POST",
            "cdata",
            b"SN=X1&table=tabledata&tablename=us%0aer",
            Unknown("X1", "POST", "cdata", b"SN=X1&table=tabledata&tablename=us%0aer", b"body"),
        ),
        ("POST", "cdata", b"SN=X1&table=options", Upload("X1", "OPTIONS", None, b"body")),
        ("POST", "cdata", b"SN=X1&table=OPERLOG&ContentType=tgz", Upload("X1", "OPERLOG", None, b"body", "tgz")),
        ("POST", "fdata", b"SN=X1", Upload("X1", "ATTPHOTO", None, b"body")),
        ("POST", "devicecmd", b"SN=X1", CommandReport("X1", (), b"body")),
    ],
)
def test_a_request_is_read_by_method_endpoint_and_parameters(
    method: str, endpoint: str, query: bytes, request_: Request
) -> None:
    assert read_request(method, endpoint, query, b"body") == request_


def test_a_handshake_says_who_calls() -> None:
    query = b"SN=X1&Options=all&PushVer=2.4.1&LANGUAGE=69&pushcommkey=secret&devicetype=att&PushOptionsFlag=1&New=%41"

    hello = read_request("GET", "cdata", query, b"")

    assert isinstance(hello, Hello)
    assert hello == Hello("X1", "2.4.1", "69", "att", "secret", push_options_flag=True, options=hello.options)
    assert hello.options == {
        "Options": "all",
        "PushVer": "2.4.1",
        "LANGUAGE": "69",
        "pushcommkey": "secret",
        "devicetype": "att",
        "PushOptionsFlag": "1",
        "New": "A",
    }
    assert "secret" not in repr(hello)


def test_a_handshake_of_the_first_protocol_says_next_to_nothing() -> None:
    assert read_request("GET", "cdata", b"SN=X1&options=all", b"") == Hello(
        "X1", None, None, None, None, push_options_flag=False, options={"options": "all"}
    )


@pytest.mark.parametrize("serial", ["0316144680030", "A", "a-b_c.D", "9" * 64])
def test_a_serial_is_letters_digits_and_three_marks(serial: str) -> None:
    assert read_request("GET", "ping", f"SN={serial}".encode(), b"") == Ping(serial)


@pytest.mark.parametrize(
    "serial",
    [
        "9" * 65,
        "a b",
        "a/b",
        "a%0Ab",
        "a%00",
        "a%0D",
        "X1%0A",
        "%C3%A9",
        "%D9%A3",
        "%EF%BC%91",
        "a+b",
        "%FF",
        "a=b",
        "'--",
    ],
)
def test_another_serial_is_refused(serial: str) -> None:
    with pytest.raises(BadSerial):
        read_request("GET", "ping", f"SN={serial}".encode(), b"")


def test_two_serials_are_none() -> None:
    assert read_request("GET", "ping", b"SN=X1&sn=X1", b"") == Ping("X1")
    with pytest.raises(BadSerial):
        read_request("GET", "ping", b"SN=X1&sn=X2", b"")
    with pytest.raises(BadSerial):
        read_request("GET", "ping", b"SN=X1&SN=", b"")


@pytest.mark.parametrize("query", [b"", b"SN", b"SN=", b"SN=&sn=", b"S=X1", b"&&=&=X1", b"table=ATTLOG"])
@pytest.mark.parametrize("endpoint", ["cdata", "ping", "getrequest", "devicecmd", "fdata", "else"])
def test_a_request_without_serial_is_refused_wherever_it_goes(endpoint: str, query: bytes) -> None:
    with pytest.raises(MissingSerial):
        read_request("POST", endpoint, query, b"")


@pytest.mark.parametrize(
    ("sent", "stamp"),
    [
        (b"9999", "9999"),
        (b"None", "None"),
        (b"2008-02-25T12:08:21", "2008-02-25T12:08:21"),
        (b"2008-02-25T12:08:21+01:00", "2008-02-25T12:08:21+01:00"),
        (b"", None),
        (b"1%0AEncrypt=1", None),
        (b"%C3%A9", None),
        (b"1" * 65, None),
    ],
)
def test_a_stamp_is_text_that_can_go_back(sent: bytes, stamp: str | None) -> None:
    upload = read_request("POST", "cdata", b"SN=X1&table=ATTLOG&Stamp=" + sent, b"")

    assert isinstance(upload, Upload)
    assert upload.stamp == stamp


def test_a_table_name_can_be_stored_whatever_it_is() -> None:
    upload = read_request("POST", "cdata", b"SN=X1&table=a%00b" + b"c" * 100, b"")

    assert isinstance(upload, Upload)
    assert upload.table == "a\ufffdb" + "c" * 61


def test_a_command_may_be_reported_in_the_query_or_to_cdata() -> None:
    done = (CommandResult("12", 0, "DATA"),)

    assert read_request("GET", "devicecmd", b"SN=X1&ID=12&Return=0&CMD=DATA", b"") == CommandReport("X1", done, b"")
    body = b"ID=12&Return=0&CMD=DATA\n"
    assert read_request("POST", "cdata", b"SN=X1", body) == CommandReport("X1", done, body)
    assert isinstance(read_request("POST", "cdata", b"SN=X1&type=PostVerifyData", body), Unknown)


@pytest.mark.parametrize(
    ("text", "info"),
    [
        ("Ver 8,1,2,3", {"firmware": "Ver 8", "users": 1, "fingerprints": 2, "attlogs": 3}),
        ("V,1,2,3,10.0.0.9", {"firmware": "V", "users": 1, "fingerprints": 2, "attlogs": 3, "ip": "10.0.0.9"}),
        (
            "V,1,2,3,10.0.0.9,10,7,15,4,11110,5,6,7,8",
            {
                "firmware": "V",
                "users": 1,
                "fingerprints": 2,
                "attlogs": 3,
                "ip": "10.0.0.9",
                "fp_version": "10",
                "face_version": "7",
                "faces_needed": 15,
                "faces": 4,
                "functions": "11110",
                "cards": 5,
                "user_photos": 6,
                "attendance_photos": 7,
            },
        ),
        (",x,-1,99999999999", {}),
        (" V , 1 ", {"firmware": "V", "users": 1}),
    ],
)
def test_info_is_read_as_far_as_it_goes(text: str, info: dict[str, str | int]) -> None:
    values = tuple(value.strip() for value in text.split(","))

    assert read_info(text) == DeviceInfo(values, **info)  # type: ignore[arg-type]
