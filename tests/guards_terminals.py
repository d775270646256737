"""The guards of the terminals' edge: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import ICLOCK, NUMBERED, Guard

SECURITY, INGEST = "protocol/adms/security.py", "app/domain/ingest.py"
AT_SECURITY, AT_UNITS = "tests/protocol/adms/test_security.py::test_", "tests/app/web/test_security.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "security: a record's number tells it from another",
        NUMBERED,
        [('[*RECORD, "record_index"]', "RECORD")],
        [AT_UNITS + "records_that_differ_in_their_number_alone_are_two_punches_and_a_resent_one_is_one"],
    ),
    Guard(
        "security: what a door did is no punch",
        SECURITY,
        [("if self.pin is None or self.event in OF_THE_UNIT:", "if self.pin is None:")],
        [AT_SECURITY + "a_refusal_an_alarm_and_a_door_are_no_punches"],
    ),
    Guard(
        "security: an event that is no punch is kept",
        INGEST,
        [("            others.append(event.raw)\n", "")],
        [AT_UNITS + "a_unit_registers_is_configured_and_sends_its_events"],
    ),
    Guard(
        "security: a stranger is not registered",
        ICLOCK,
        [("                return _NOT_REGISTERED\n", '                return 200, b"RegistryCode=1"\n')],
        [AT_UNITS + "a_stranger_is_let_register_nowhere_and_sends_nothing"],
    ),
)
