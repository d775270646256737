"""The guards of what terminals show of themselves: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import ICLOCK, Guard

PROFILES, INGEST = "app/domain/profiles.py", "app/domain/ingest.py"
RULES, AT_PROFILES = "tests/app/domain/test_profiles.py::test_", "tests/app/web/test_profiles.py::test_"
AT_LINES = "tests/app/web/test_bad_lines.py::test_"
AT_SIMULATED = "tests/app/web/test_simulated.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "memory: what was seen before a reset is not of the new one",
        "app/domain/bindings.py",
        [
            (
                "    mark = CASE WHEN c.seen_at < d.generation_at THEN d.mark ELSE ",
                "    mark = CASE WHEN false THEN d.mark ELSE ",
            )
        ],
        [
            "tests/app/domain/test_profiles.py::test_what_was_seen_before_a_reset_and_is_written_after_it_is_not_of_the_new_memory"
        ],
    ),
    Guard(
        "memory: a stamp from before a reset is not told to the new one",
        "app/domain/bindings.py",
        [
            (
                "stamps = CASE WHEN c.seen_at < d.generation_at THEN d.stamps ELSE d.stamps || c.stamps END",
                "stamps = d.stamps || c.stamps",
            )
        ],
        [
            "tests/app/domain/test_profiles.py::test_what_was_seen_before_a_reset_and_is_written_after_it_is_not_of_the_new_memory"
        ],
    ),
    Guard(
        "memory: a count from before a reset is not of the new one",
        "app/domain/bindings.py",
        [("WHEN c.seen_at < d.generation_at THEN d.reported_punch_count", "WHEN false THEN d.reported_punch_count")],
        [
            "tests/app/domain/test_profiles.py::test_what_was_seen_before_a_reset_and_is_written_after_it_is_not_of_the_new_memory"
        ],
    ),
    Guard(
        "clocks: a backlog is no clock that is behind",
        PROFILES,
        [("if exact or -BUFFERED_AFTER <= off <= _A_DAY:", "if True:")],
        [RULES + "a_backlog_that_is_caught_up_says_nothing_of_the_clock"],
    ),
    Guard(
        "clocks: an hour that comes twice is no drift",
        INGEST,
        [("clock.nearest(newest, device.zone, at)", "clock.instant(newest, device.zone)")],
        [RULES + "an_hour_that_comes_twice_is_no_drift"],
    ),
    Guard(
        "clocks: what the upload itself shows goes first",
        PROFILES,
        [("known.clock_skew_ms if skew_ms is None else skew_ms", "known.clock_skew_ms")],
        [RULES + "the_upload_that_shows_a_drift_is_flagged_itself"],
    ),
    Guard(
        "clocks: where they change, one process says so",
        ICLOCK,
        [("                await self._turn_clock(device, received_at)\n", "")],
        [AT_PROFILES + "where_the_clocks_change_a_terminal_is_told_to_ask_for_its_zone_and_is_set"],
    ),
    Guard(
        "sources: a terminal that moved is one",
        PROFILES,
        [("alternates |= bool(back and since", "alternates |= bool(since")],
        [RULES + "a_terminal_that_moves_is_one"],
    ),
    Guard(
        "sources: a header is believed of trusted proxies only",
        "app/web/middleware.py",
        [("    while hops and _is_in(at, trusted):", "    while hops:")],
        [AT_PROFILES + "a_proxy_that_is_trusted_says_where_a_terminal_calls_from_and_another_does_not"],
    ),
    Guard(
        "generations: one reset is one generation",
        PROFILES,
        [("AND id = $2 FOR NO KEY UPDATE", "AND id = $2")],
        [RULES + "processes_that_notice_a_reset_at_once_begin_one_generation"],
    ),
    Guard(
        "generations: the old mark is not told to the new memory",
        PROFILES,
        [
            (
                "stamps = CASE WHEN $5 > generation THEN $10::jsonb ELSE stamps END",
                "stamps = coalesce(stamps, $10::jsonb)",
            )
        ],
        [AT_PROFILES + "after_a_factory_reset_nothing_is_skipped_lost_or_doubled"],
    ),
    Guard(
        "generations: a resend begins none",
        PROFILES,
        [("seen.mark < known.mark and seen.mark_at > known.mark_at", "seen.mark < known.mark")],
        [AT_PROFILES + "a_terminal_that_only_sends_everything_again_has_the_memory_that_it_had"],
    ),
    Guard(
        "text: a name that goes to a terminal is in its code page",
        ICLOCK,
        [(", device.watched.takes)", ")")],
        [AT_SIMULATED + "names_go_both_ways_in_the_terminals_code_page"],
    ),
    Guard(
        "text: the language that was announced goes before a guess",
        "protocol/adms/records.py",
        [('("utf-8", code_page, "gb18030")', '("utf-8", "gb18030")')],
        [
            "tests/protocol/adms/test_records.py::test_a_name_is_read_in_the_code_page_of_the_terminals_language",
            AT_SIMULATED + "names_go_both_ways_in_the_terminals_code_page",
        ],
    ),
    Guard(
        "security: a push gets the options before any command",
        ICLOCK,
        [("        if device.watched.configured:\n", "        if True:\n")],
        ["tests/app/web/test_security.py::test_a_push_gets_the_options_first_and_then_commands_each_once"],
    ),
    Guard(
        "edge: whose upload is too large is told so, once",
        ICLOCK,
        [("                    await self._tell_too_large(scope, headers)\n", "                    pass\n")],
        [AT_PROFILES + "an_upload_over_the_bound_is_a_rejected_record_of_its_device_once"],
    ),
    Guard(
        "line: what was cut short is nothing",
        ICLOCK,
        [
            (
                'if message["type"] == "http.disconnect":\n                return None\n',
                'if message["type"] == "http.disconnect":\n                return b"".join(chunks)\n',
            )
        ],
        [AT_LINES + "a_request_that_is_cut_after_any_of_its_bytes_stores_nothing"],
    ),
    Guard(
        "line: what comes late lowers no mark and begins nothing",
        PROFILES,
        [("seen.mark < known.mark and seen.mark_at > known.mark_at", "seen.mark < known.mark")],
        [AT_LINES + "what_comes_a_week_late_is_stored_too_and_follows_in_the_feed"],
    ),
    Guard(
        "line: what keeps coming is waited for, however slow",
        "app/web/wire.py",
        [("self._received / self.SLOWEST", "0")],
        [AT_LINES + "a_thousand_records_over_a_bad_mobile_line_end_in_ok_and_hold_up_nobody"],
    ),
    Guard(
        "line: a fleet that comes back at once is held off",
        "app/web/intake.py",
        [("        if self._waiting and self._waiting + weight > self._bound:\n", "        if False:\n")],
        [AT_LINES + "a_fleet_that_comes_back_at_once_is_told_to_wait_and_loses_nothing"],
    ),
    Guard(
        "line: virtual terminals do not set out where nobody listens",
        "app/cli.py",
        [("        await _reach(url, stop)\n", "")],
        ["tests/app/test_simulator.py::test_the_command_says_in_one_line_that_no_terminal_gets_there"],
    ),
)
