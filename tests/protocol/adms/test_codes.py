"""What the numbers are called."""

from __future__ import annotations

import pytest

from protocol.adms.codes import (
    EVIDENCE_OPERATIONS,
    OPERATIONS,
    Direction,
    VerifyMode,
    direction,
    is_old,
    verify_mode,
    version,
)


def test_a_state_is_a_direction_where_the_usual_table_lists_it() -> None:
    assert [direction(state) for state in range(7)] == [
        Direction.CHECK_IN,
        Direction.CHECK_OUT,
        Direction.BREAK_OUT,
        Direction.BREAK_IN,
        Direction.OVERTIME_IN,
        Direction.OVERTIME_OUT,
        Direction.UNSPECIFIED,
    ]
    assert {direction(state) for state in (255, 8, -1, None)} == {Direction.UNSPECIFIED}


def test_a_device_may_have_its_own_table() -> None:
    assert direction(7, {7: Direction.CHECK_IN}) is Direction.CHECK_IN
    assert direction(0, {7: Direction.CHECK_IN}) is Direction.UNSPECIFIED


@pytest.mark.parametrize(
    ("mode", "codes"),
    [
        (VerifyMode.FINGERPRINT, {1, 5, 6, 8, 9, 10, 12, 13, 14}),
        (VerifyMode.PASSWORD, {3}),
        (VerifyMode.CARD, {4, 7, 11}),
        (VerifyMode.FACE, {15, 16, 17, 18, 19, 20}),
        (VerifyMode.PALM, {25, 26, 27, 28, 29}),
    ],
)
def test_a_combined_mode_goes_by_the_part_of_the_body_shown(mode: VerifyMode, codes: set[int]) -> None:
    assert {code for code in range(-5, 300) if verify_mode(code) is mode} == codes


def test_old_terminals_number_differently() -> None:
    old = [verify_mode(code, old=True) for code in (0, 1, 2, 3, 4, 9, 15, 200)]

    assert old == [
        VerifyMode.PASSWORD,
        VerifyMode.FINGERPRINT,
        VerifyMode.CARD,
        VerifyMode.OTHER,
        VerifyMode.OTHER,
        VerifyMode.OTHER,
        VerifyMode.FACE,
        VerifyMode.OTHER,
    ]
    assert verify_mode(None) is verify_mode(None, old=True) is VerifyMode.OTHER


@pytest.mark.parametrize(
    ("pushver", "numbers", "old"),
    [
        ("2.0.1", (2, 0, 1), True),
        ("2.2.13", (2, 2, 13), True),
        ("2.2.14", (2, 2, 14), False),
        ("2.4.1", (2, 4, 1), False),
        ("3.1.2S", (3, 1, 2), False),
        ("Ver 2.0.33S-20211012", (2, 0, 33), True),
        ("1" * 5000, (11111,), False),
        ("٣.٣", (), False),
        ("", (), False),
        (None, (), False),
    ],
)
def test_a_version_is_its_numbers(pushver: str | None, numbers: tuple[int, ...], old: bool) -> None:
    assert version(pushver) == numbers
    assert is_old(pushver) is old


def test_what_can_remove_evidence_has_a_name() -> None:
    assert {OPERATIONS[code] for code in EVIDENCE_OPERATIONS} == {
        "data_cleared",
        "time_set",
        "factory_reset",
        "records_deleted",
        "photos_deleted",
    }
