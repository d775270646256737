"""Number tables. Terminals send small integers; firmware families disagree about some, so a table is chosen for each.

The number itself is always kept beside what it is called here: these names are for people.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

_VERSION = re.compile(r"[0-9]{1,5}(?:\.[0-9]{1,5})*")


class Direction(StrEnum):
    """What a punch state means. `UNSPECIFIED` covers both a terminal without state keys and a key nobody explained."""

    CHECK_IN = "check_in"
    CHECK_OUT = "check_out"
    BREAK_OUT = "break_out"
    BREAK_IN = "break_in"
    OVERTIME_IN = "overtime_in"
    OVERTIME_OUT = "overtime_out"
    UNSPECIFIED = "unspecified"


class VerifyMode(StrEnum):
    """How a person proved who they are."""

    PASSWORD = "password"  # noqa: S105
    FINGERPRINT = "fingerprint"
    CARD = "card"
    FACE = "face"
    PALM = "palm"
    OTHER = "other"


#: 255 means that the state keys are off. They can be reassigned on the terminal, so a device may need its own table.
DIRECTIONS: Mapping[int, Direction] = MappingProxyType(
    {
        0: Direction.CHECK_IN,
        1: Direction.CHECK_OUT,
        2: Direction.BREAK_OUT,
        3: Direction.BREAK_IN,
        4: Direction.OVERTIME_IN,
        5: Direction.OVERTIME_OUT,
    }
)

# Combined modes are named by the part of the body that was shown, as the hardest to lend: the first one in the
# vendor's name of the mode where there are two (16 is face + fingerprint, 27 is palm + face). Without one, the card
# goes before the password. Where the mode says "or" nobody knows which it was, and the same rule applies.
# 0 (automatic), 2 (number typed, nothing proved) and finger veins (21-24) are none of the names.
VERIFY_MODES: Mapping[int, VerifyMode] = MappingProxyType(
    {
        1: VerifyMode.FINGERPRINT,
        3: VerifyMode.PASSWORD,
        4: VerifyMode.CARD,
        5: VerifyMode.FINGERPRINT,  # or password
        6: VerifyMode.FINGERPRINT,  # or card
        7: VerifyMode.CARD,  # or password
        8: VerifyMode.FINGERPRINT,  # + number
        9: VerifyMode.FINGERPRINT,  # + password
        10: VerifyMode.FINGERPRINT,  # + card
        11: VerifyMode.CARD,  # + password
        12: VerifyMode.FINGERPRINT,  # + password + card
        13: VerifyMode.FINGERPRINT,  # + number + password
        14: VerifyMode.FINGERPRINT,  # + number or card
        15: VerifyMode.FACE,
        16: VerifyMode.FACE,  # + fingerprint
        17: VerifyMode.FACE,  # + password
        18: VerifyMode.FACE,  # + card
        19: VerifyMode.FACE,  # + fingerprint + card
        20: VerifyMode.FACE,  # + fingerprint + password
        25: VerifyMode.PALM,
        26: VerifyMode.PALM,  # + card
        27: VerifyMode.PALM,  # + face
        28: VerifyMode.PALM,  # + fingerprint
        29: VerifyMode.PALM,  # + fingerprint + face
    }
)

#: Protocol versions below 2.2.14. Their numbers from 3 to 9 were never agreed upon; from 10 on the list above applies.
OLD_VERIFY_MODES: Mapping[int, VerifyMode] = MappingProxyType(
    {
        **VERIFY_MODES,
        0: VerifyMode.PASSWORD,
        1: VerifyMode.FINGERPRINT,
        2: VerifyMode.CARD,
        **dict.fromkeys(range(3, 10), VerifyMode.OTHER),
    }
)

#: The language that is announced at the handshake -> the code page of text that is not UTF-8. What is not here may be
#: anything: GB18030 is tried for it.
CODE_PAGES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("66", "65"), "windows-1256"),  # Arabic, Persian
        **dict.fromkeys(("90", "112", "89"), "windows-1250"),  # Czech, Polish, Slovak
        "82": "windows-1251",  # Russian
        "103": "windows-1253",  # Greek
        "116": "windows-1254",  # Turkish
        "72": "windows-1255",  # Hebrew
        "86": "windows-1258",  # Vietnamese
        "76": "cp874",  # Thai
        "83": "gb18030",
        "84": "big5",
        "74": "cp932",  # Japanese
        "75": "cp949",  # Korean
    }
)
#: Set to it, a terminal expects text in its code page, as long as it has shown no other.
CHINESE = "83"

#: What an OPLOG line reports, by its operation code.
OPERATIONS: Mapping[int, str] = MappingProxyType(
    {
        0: "boot",
        1: "shutdown",
        2: "verification_failed",
        3: "alarm",
        4: "menu_entered",
        5: "setting_changed",
        6: "fingerprint_enrolled",
        7: "password_enrolled",
        8: "card_enrolled",
        9: "user_deleted",
        10: "fingerprint_deleted",
        11: "password_deleted",
        12: "card_deleted",
        13: "data_cleared",
        14: "smart_card_created",
        15: "smart_card_enrolled",
        16: "smart_card_registered",
        17: "smart_card_unregistered",
        18: "smart_card_cleared",
        19: "data_moved_to_card",
        20: "data_copied_from_card",
        21: "time_set",
        22: "factory_reset",
        23: "records_deleted",
        24: "administrators_cleared",
        25: "access_group_changed",
        26: "user_access_changed",
        27: "access_time_changed",
        28: "unlock_combination_changed",
        29: "door_unlocked",
        30: "user_enrolled",
        31: "fingerprint_attribute_changed",
        32: "duress_alarm",
        33: "doorbell",
        34: "anti_passback",
        35: "photos_deleted",
        36: "user_changed",
        37: "holiday_changed",
        38: "data_restored",
        39: "data_backed_up",
        40: "usb_upload",
        41: "usb_download",
        42: "usb_photo_upload",
        43: "usb_photo_download",
        53: "exit_button",
        54: "door_sensor",
        55: "alarm_raised",
        56: "parameters_restored",
        68: "user_photo_added",
        69: "user_photo_changed",
        70: "user_name_changed",
        71: "user_privilege_changed",
        76: "network_address_changed",
        77: "network_mask_changed",
        78: "network_gateway_changed",
        79: "network_dns_changed",
        80: "connection_password_changed",
        81: "connection_device_id_changed",
        82: "cloud_address_changed",
        83: "cloud_port_changed",
    }
)

#: Operations that can change or remove evidence, and so deserve somebody's attention.
EVIDENCE_OPERATIONS = frozenset({13, 21, 22, 23, 35})

#: Why an alarm (operation 3) went off.
ALARM_REASONS: Mapping[int, str] = MappingProxyType(
    {
        50: "door_closed",
        51: "door_open",
        53: "exit_button",
        54: "forced_open",
        55: "tampered",
        58: "invalid_attempts",
        65535: "cancelled",
    }
)

#: What a negative (or, for enrolment at the terminal, positive) `Return` says.
RESULTS: Mapping[int, str] = MappingProxyType(
    {
        0: "done",
        -1: "wrong parameter, not supported, or no data",
        -2: "photo does not match its size",
        -3: "input/output error",
        -4: "no match",
        -5: "full",
        -6: "invalid",
        -9: "template does not match its size",
        -10: "no such PIN",
        -11: "bad template format",
        -12: "bad template",
        -22: "unknown command",
        -30: "template algorithm version not supported",
        -1001: "out of capacity",
        -1002: "not supported or malformed",
        -1003: "timed out",
        -1004: "not available on this model",
        -1005: "busy",
        -1006: "too long",
        -1007: "out of memory",
        -1008: "download failed",
    }
)

#: Positive answers to the ENROLL_ commands are refusals too.
ENROLMENT_RESULTS: Mapping[int, str] = MappingProxyType(
    {
        2: "already enrolled",
        4: "poor quality",
        5: "already enrolled for somebody else, or timed out",
        6: "cancelled at the terminal",
        7: "busy",
    }
)


def direction(state: int | None, table: Mapping[int, Direction] = DIRECTIONS) -> Direction:
    """What `state` means by `table`; `UNSPECIFIED` for none and for numbers it does not list."""
    return Direction.UNSPECIFIED if state is None else table.get(state, Direction.UNSPECIFIED)


def verify_mode(code: int | None, *, old: bool = False) -> VerifyMode:
    """What `code` means, `OTHER` if it is not listed; `old` for protocols below 2.2.14, whose 0 to 9 differ."""
    table = OLD_VERIFY_MODES if old else VERIFY_MODES
    return VerifyMode.OTHER if code is None else table.get(code, VerifyMode.OTHER)


def version(text: str | None) -> tuple[int, ...]:
    """The numbers of a version, wherever they stand: "Ver 2.0.33S-20211012" is (2, 0, 33); () when there are none."""
    found = _VERSION.search(text or "")
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def is_old(pushver: str | None) -> bool:
    """Whether the announced protocol version is below 2.2.14. A terminal that announced none is not known to be old."""
    return () != version(pushver) < (2, 2, 14)
