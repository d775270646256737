"""The guards of the terminals' edge: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import ICLOCK, NUMBERED, Guard

WIRE, AT_WIRE = "app/web/wire.py", "tests/app/web/test_wire.py::test_"
PRESENCE, AT_PRESENCE = "app/domain/presence.py", "tests/app/domain/test_presence.py::test_"
CLAIMS, AT_CLAIMS = "app/migrations/versions/0012c_claims.py", "tests/app/web/test_claims.py::test_"
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
    Guard(
        "edge: a request has to arrive",
        WIRE,
        [("        self._timer = self.loop.call_later(self.PATIENCE, self._overdue)\n", "")],
        [
            AT_WIRE + "a_connection_that_says_nothing_is_cut",
            AT_WIRE + "empty_lines_for_ever_are_no_request",
            AT_WIRE + "a_body_that_drips_is_cut_and_nothing_of_it_is_stored",
            AT_WIRE + "silence_in_the_middle_of_a_body_is_cut",
        ],
    ),
    Guard(
        "edge: dripping is not arriving",
        WIRE,
        [("self._received / self.SLOWEST", "self._received")],
        [AT_WIRE + "a_body_that_drips_is_cut_and_nothing_of_it_is_stored"],
    ),
    Guard(
        "edge: what keeps coming is waited for",
        WIRE,
        [("self._received / self.SLOWEST", "0")],
        [AT_WIRE + "a_slow_line_that_keeps_coming_is_waited_for"],
    ),
    Guard(
        "edge: a head ends",
        WIRE,
        [("self._received > self.HEAD and", "False and")],
        [AT_WIRE + "a_head_over_the_bound_is_refused"],
    ),
    Guard(
        "edge: an answer takes its time",
        WIRE,
        [
            ("        self._stop()\n        super().on_message_complete()", "        super().on_message_complete()"),
            ("            return  # stray bytes behind a request that is being answered\n", "            pass\n"),
        ],
        [AT_WIRE + "the_time_that_an_answer_takes_is_not_the_clients"],
    ),
    Guard(
        "presence: who is online comes online no more",
        PRESENCE,
        [("    WHERE NOT d.online ORDER", "    ORDER"), (" AND NOT d.online\nRETURNING", "\nRETURNING")],
        [
            AT_PRESENCE + "the_first_contact_is_announced_and_the_next_ones_are_not",
            AT_PRESENCE + "several_processes_that_hear_a_terminal_at_once_announce_it_once",
        ],
    ),
    Guard(
        "presence: who is offline is missed no more",
        PRESENCE,
        [
            ("WHERE d.tenant_id = $1 AND d.online AND d.status", "WHERE d.tenant_id = $1 AND d.status"),
            ("AND d.id = missed.id AND d.online AND", "AND d.id = missed.id AND"),
        ],
        [AT_PRESENCE + "a_terminal_is_missed_sixty_seconds_after_the_contact_that_it_owed"],
    ),
    Guard(
        "claims: they end",
        CLAIMS,
        [
            ("AND d.status = 'PENDING' AND d.claim_expires_at > now()\n", "AND d.status = 'PENDING'\n"),
            ("      AND d.claim_tries < 50\n", ""),
        ],
        [AT_CLAIMS + "a_claim_ends_with_its_time_and_with_its_tries"],
    ),
    Guard(
        "claims: a guess among many is no proof",
        "app/domain/claims.py",
        [("list(pins)[:MOST_USERS]", "list(pins)")],
        [AT_CLAIMS + "the_user_of_a_claim_is_found_among_the_first_hundred_only"],
    ),
    Guard(
        "claims: a failed try counts",
        "app/domain/claims.py",
        [("SET claim_tries = d.claim_tries + 1", "SET claim_tries = d.claim_tries")],
        [AT_CLAIMS + "other_users_bind_nothing_and_are_counted"],
    ),
)
