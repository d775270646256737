"""The guards of the terminals' edge: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import AT_OUTBOUND, ICLOCK, NUMBERED, Guard

WIRE, AT_WIRE = "app/web/wire.py", "tests/app/web/test_wire.py::test_"
PRESENCE, AT_PRESENCE = "app/domain/presence.py", "tests/app/domain/test_presence.py::test_"
CLAIMS, AT_CLAIMS = "app/migrations/versions/0012c_claims.py", "tests/app/web/test_claims.py::test_"
SECURITY, INGEST = "protocol/adms/security.py", "app/domain/ingest.py"
ANSWERS, AT_ANSWERS = "app/domain/answers.py", "tests/app/web/test_answers.py::test_"
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
        "text: a record is shown in its terminal's code page",
        "schema/types.py",
        [("return decode(line, page)[0]", "return decode(line)[0]")],
        ["tests/schema/test_queries.py::test_a_record_is_shown_in_the_code_page_of_its_terminal"],
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
        [("room = len(data) if self._head_ended else max(self.HEAD - self._received, 0)", "room = len(data)")],
        [AT_WIRE + "a_head_over_the_bound_is_refused", AT_WIRE + "a_head_a_byte_over_the_bound_is_refused"],
    ),
    Guard(
        "edge: a terminal is turned away in plain text",
        WIRE,
        [('not self.url or b"/iclock" in self.url', "not self.url")],
        [
            AT_WIRE + "what_is_no_http_is_refused_in_the_shape_of_errors_but_for_terminals",
            AT_WIRE + "a_head_over_the_bound_is_refused_in_the_shape_of_errors_but_for_terminals",
        ],
    ),
    Guard(
        "edge: who is turned away is heard out",
        WIRE,
        [
            (
                "        self._wait_for_quiet()\n\n    def _wait_for_quiet(self) -> None:\n        self._stop()",
                "        self.transport.close()\n\n    def _wait_for_quiet(self) -> None:\n        self._stop()",
            )
        ],
        [AT_WIRE + "who_is_turned_away_may_write_on_for_a_moment"],
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
    Guard(
        "answers: the packets of one are joined",
        ANSWERS,
        [
            ("    if len(whole) == packet.count:\n", "    if whole:\n"),
            ("if number >= packet.count or size > room else []", "if number else []"),
        ],
        [
            AT_ANSWERS + "the_packets_of_an_answer_are_joined_and_the_last_one_settles_the_command",
            AT_ANSWERS + "packets_are_joined_whichever_process_each_comes_to_and_after_one_has_died",
        ],
    ),
    Guard(
        "answers: a packet that was read is known again",
        ANSWERS,
        [('    if again and again[0]["state"] == PacketState.READ and (answer or', "    if not packet and (answer or")],
        [AT_ANSWERS + "a_packet_that_comes_again_after_the_whole_changes_nothing"],
    ),
    Guard(
        "answers: twins take turns",
        ANSWERS,
        [
            (
                "    await commands.lock(connection, tenant_id, device_id)\n    digest",
                "    digest",
            )
        ],
        [AT_ANSWERS + "of_two_packets_at_once_the_later_sees_the_earlier"],
    ),
    Guard(
        "answers: one device's packets are not another's",
        ANSWERS,
        [
            (
                "WHERE tenant_id = $1 AND device_id = $2 AND state <> 'READ' ORDER BY answer",
                "WHERE tenant_id = $1 AND $2::uuid IS NOT NULL AND state <> 'READ' ORDER BY answer",
            ),
            ("    number, size = await", "    number, size = 9, 0\n    await"),
        ],
        [AT_ANSWERS + "answers_of_two_devices_to_commands_with_one_number_are_two"],
    ),
    Guard(
        "answers: an end to waiting",
        ANSWERS,
        [("max(received_at) < now() - $1::interval\n", "max(received_at) < now() - 9 * $1::interval\n")],
        [
            AT_ANSWERS + "an_answer_that_stays_in_parts_is_read_row_by_row_and_its_command_expires_with_a_reason",
            AT_ANSWERS + "a_whole_answer_whose_reader_died_is_read_later",
        ],
    ),
    Guard(
        "answers: half a row is not read",
        "app/web/answers.py",
        [("head, tail = first.number > 1, last.number < last.count", "head, tail = False, False")],
        [
            AT_ANSWERS + "an_answer_that_stays_in_parts_is_read_row_by_row_and_its_command_expires_with_a_reason",
            AT_ANSWERS + "half_of_an_event_is_no_punch",
        ],
    ),
    Guard(
        "answers: so much room and no more",
        ANSWERS,
        [("    if number > MOST or size > room:\n", "    if number > MOST:\n")],
        [AT_ANSWERS + "packets_take_no_more_room_than_one_upload_may"],
    ),
    Guard(
        "answers: what cannot be read yet is sealed",
        ANSWERS,
        [
            (
                "        sealed = vault.seal_bytes(upload.body, owner=device_id, purpose=_SEAL)\n",
                "        sealed = upload.body\n",
            ),
        ],
        [AT_ANSWERS + "what_waits_is_sealed"],
    ),
    Guard(
        "answers: what cannot be opened is let go",
        ANSWERS,
        [("        await connection.execute(_DELETE, tenant_id, lost)\n", "")],
        [AT_ANSWERS + "packets_under_a_former_secret_key_stand_in_nobodys_way"],
    ),
    Guard(
        "webhooks: a 204 ends with its head",
        "workers/outbound.py",
        [("        if data[:12] in _NO_CONTENT and", "        if not data and")],
        [
            AT_OUTBOUND + "an_answer_that_is_no_answer_is_named",
            AT_OUTBOUND + "what_follows_a_204_is_not_taken_for_the_next_answer",
        ],
    ),
    Guard(
        "parsing: NUL bytes in front of a record are kept",
        "protocol/adms/records.py",
        [('    return line.rstrip(_ENDS).lstrip(b"\\r\\n")\n', "    return line.strip(_ENDS)\n")],
        [
            "tests/protocol/adms/test_records.py::test_nul_bytes_in_front_of_a_record_are_kept_with_it",
            "tests/protocol/adms/test_security.py::test_nul_bytes_in_front_of_an_event_are_kept_with_it",
        ],
    ),
    Guard(
        "commands: a period lies in terminals' calendar",
        "app/domain/commands.py",
        [("        if at.year not in YEARS:\n", "        if not at.year:\n")],
        ["tests/app/domain/test_commands.py::test_a_period_beyond_terminals_calendar_is_refused"],
    ),
    Guard(
        "binding: bound on one address is not bound on another",
        "app/domain/bindings.py",
        [
            (
                "    if status != DeviceStatus.ACTIVE or not bound or not zone_name:\n",
                "    if status != DeviceStatus.ACTIVE or not zone_name:\n",
            )
        ],
        ["tests/app/web/test_iclock.py::test_what_is_bound_on_its_own_address_is_not_heard_on_the_shared_one"],
    ),
)
