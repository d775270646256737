"""Guards, and proof that somebody watches them: `python -m tests.guards [WORD …]`.

With words, only those guards that have all of them in their names. As many are tried at a time as there are processors,
each in a copy of its own.

A test that passes with and without the code it is about tests nothing. Each guard below names a few lines of the
program, what they look like when the guard is taken away, and the tests that must then fail. The tree is copied, one
guard at a time is taken out of the copy, and its tests are run there. Every named test must fail by itself: an error on
the way to it, or a test that was not found, proves nothing.

When a guarded line changes, its guard is not found any more, and that is a failure too: write it anew here.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parents[1]
ROOMS = ("app", "schema", "protocol", "workers", "tests")
#: Seconds that one run may take. A guard whose absence makes its tests hang has been missed all the same.
PATIENCE = 300

BINDINGS, ICLOCK, INTAKE = "app/domain/bindings.py", "app/web/iclock.py", "app/web/intake.py"
EVENTS, OUTBOX = "app/domain/events.py", "app/domain/outbox.py"
DELIVERIES, KEYS = "app/domain/deliveries.py", "app/domain/keys.py"
TABLES, ISOLATION = "app/migrations/versions/0001_tables.py", "app/migrations/versions/0002_isolation.py"
TOUCHED = "app/migrations/versions/0024_when_a_key_was_used.py"
NUMBERED = "app/migrations/versions/0012_numbered_records.py"
LOG = "app/migrations/versions/0003_punches_and_events_in_one_call.py"

AT_ICLOCK, AT_INTAKE = "tests/app/web/test_iclock.py::test_", "tests/app/web/test_intake.py::test_"
AT_INGEST, AT_OUTBOX = "tests/app/domain/test_ingest.py::test_", "tests/app/domain/test_outbox.py::test_"
AT_FEED, AT_TAILS = "tests/app/domain/test_feed.py::test_", "tests/app/domain/test_tails.py::test_"
AT_DELIVERIES, AT_KEYS = "tests/app/domain/test_deliveries.py::test_", "tests/app/domain/test_keys.py::test_"
AT_DOORS, AT_CATALOGUE = "tests/app/test_database.py::test_", "tests/app/test_catalogue.py::test_"
AT_ADDRESSES, AT_OUTBOUND = "tests/app/domain/test_addresses.py::test_", "tests/workers/test_outbound.py::test_"
AT_IDEMPOTENCY, AT_POOL = "tests/app/domain/test_idempotency.py::test_", "tests/workers/test_pool.py::test_"
AT_EVENTS = "tests/app/domain/test_events.py::test_"
AT_CORPUS = "tests/app/web/test_corpus.py::test_"
AT_CLI = "tests/app/test_cli.py::test_"
AT_SIMULATOR = "tests/app/test_simulator.py::test_"


@dataclass(frozen=True, slots=True)
class Guard:
    """`changes` are texts that `file` has exactly once, each with what takes its place."""

    name: str
    file: str
    changes: Sequence[tuple[str, str]]
    tests: Sequence[str]


GUARDS = (
    # ── one punch, once ──────────────────────────────────────────────────────────────────────────────
    Guard(
        "dedupe: a record that is there is skipped",
        NUMBERED,
        [("                ON CONFLICT DO NOTHING\n", "")],
        [
            AT_INGEST + "a_resent_upload_is_one_punch_and_announces_nothing",
            AT_INGEST + "the_same_line_in_two_uploads_of_one_commit_is_one_punch",
            AT_ICLOCK + "resends_and_parallel_duplicates_are_one_punch_and_one_event",
        ],
    ),
    Guard(
        "dedupe: the terminal's words are unique",
        NUMBERED,
        [('"record_index"], unique=True, postgresql_nulls_not_distinct=True', '"record_index"], unique=False')],
        [
            AT_INGEST + "a_resent_upload_is_one_punch_and_announces_nothing",
            AT_INGEST + "the_same_line_in_two_transactions_at_once_is_one_punch",
            AT_CATALOGUE + "the_punches_own_words_decide_what_is_the_same_punch",
        ],
    ),
    Guard(
        "dedupe: no state is a state",
        NUMBERED,
        [(", postgresql_nulls_not_distinct=True", "")],
        [AT_ICLOCK + "punches_that_differ_in_person_second_or_state_are_all_kept"],
    ),
    Guard(
        "OK only after the commit",
        INTAKE,
        [("        await future\n", "        future.add_done_callback(lambda done: done.exception())\n")],
        [
            AT_ICLOCK + "ok_is_said_after_the_commit_and_not_before",
            AT_INTAKE + "a_submit_returns_after_the_commit_and_not_before",
            AT_INTAKE + "what_is_not_committed_is_refused_and_not_stored_later",
        ],
    ),
    Guard(
        "a truncated body is no body",
        ICLOCK,
        [
            (
                'if message["type"] == "http.disconnect":\n                return None\n',
                'if message["type"] == "http.disconnect":\n                return b"".join(chunks)\n',
            )
        ],
        [AT_ICLOCK + "a_truncated_body_stores_nothing"],
    ),
    Guard(
        "one poisoned upload does not refuse the others",
        INTAKE,
        [("            await self._one_by_one(batch, exc)\n            return\n", "            raise exc\n")],
        [
            AT_INTAKE + "one_poisoned_upload_costs_the_others_nothing",
            AT_INTAKE + "a_poisoned_upload_of_one_tenant_costs_another_nothing",
        ],
    ),
    Guard(
        "dedupe: of an upload only what is new is announced",
        NUMBERED,
        [("WHERE fresh[width_bucket(u.id, fresh)] = u.id;", "WHERE true;")],
        [AT_INGEST + "the_same_line_in_two_uploads_of_one_commit_is_one_punch"],
    ),
    Guard(
        "who has the PIN is asked under the lock",
        LOG,
        [("ORDER BY h.tenant_id FOR NO KEY UPDATE\n", "ORDER BY h.tenant_id\n")],
        [AT_INGEST + "a_person_enrolled_between_the_insert_and_the_head_is_found"],
    ),
    # ── one log ──────────────────────────────────────────────────────────────────────────────────────
    Guard(
        "heads are locked in one order",
        LOG,
        [("ORDER BY h.tenant_id FOR NO KEY UPDATE\n", "ORDER BY h.tenant_id DESC FOR NO KEY UPDATE\n")],
        [
            AT_OUTBOX + "heads_are_locked_in_one_order_whatever_was_asked",
            AT_INGEST + "heads_are_locked_in_one_order_whoever_comes_first_in_an_upload",
        ],
    ),
    Guard(
        "positions are dense",
        LOG,
        [("SET position = h.position + c.n\n", "SET position = h.position + c.n + 1\n")],
        [
            AT_OUTBOX + "positions_follow_one_another_and_the_order_in_which_things_happened",
            AT_OUTBOX + "many_writers_at_once_leave_no_hole_and_no_double",
            AT_INGEST + "a_resent_upload_is_one_punch_and_announces_nothing",
            AT_INTAKE + "many_tenants_through_two_processes_at_once_are_all_stored_in_dense_positions",
        ],
    ),
    Guard(
        "a cursor is ours and the tenant's",
        EVENTS,
        [("or not hmac.compare_digest(mac, self._mac(tenant_id, place))", "")],
        [
            AT_EVENTS + "a_cursor_of_another_tenant_key_or_position_is_invalid",
            AT_FEED + "a_cursor_of_another_tenant_or_of_the_future_is_invalid",
        ],
    ),
    Guard(
        "a message on the bus is ours",
        EVENTS,
        [
            (
                'if not sign or not hmac.compare_digest(mac, _message_mac(key, text + b"}").encode() + b\'"}\'):',
                "if not sign:",
            )
        ],
        [AT_EVENTS + "a_message_that_is_not_ours_or_was_changed_is_nobodys"],
    ),
    Guard(
        "a message on the bus is this tenant's",
        EVENTS,
        [('    if head["tenant"] != ids.show("ten", tenant_id):\n        return None\n', "")],
        [
            AT_EVENTS + "a_message_that_is_not_ours_or_was_changed_is_nobodys",
            AT_OUTBOX + "each_tenant_is_rung_on_its_own_channel_and_workers_are_woken",
        ],
    ),
    Guard(
        "intake: few wait for the commit under way",
        INTAKE,
        [("if not self._soon or len(self._queue) >= CROWD:", "if True:")],
        [AT_INTAKE + "few_that_come_meanwhile_wait_for_the_commit_under_way_and_share_the_next"],
    ),
    Guard(
        "intake: a crowd is worth another commit",
        INTAKE,
        [("if not self._soon or len(self._queue) >= CROWD:", "if not self._soon:")],
        [AT_INTAKE + "a_crowd_or_a_commit_that_takes_long_is_worth_another_beside_it"],
    ),
    Guard(
        "intake: a commit that hangs holds up nobody else",
        INTAKE,
        [
            (
                "patience = loop.call_later(PATIENCE, self._wait_no_longer_for, commit)",
                "patience = loop.call_later(3600, self._wait_no_longer_for, commit)",
            )
        ],
        [AT_INTAKE + "a_crowd_or_a_commit_that_takes_long_is_worth_another_beside_it"],
    ),
    Guard(
        "feed: what this process commits needs no bus",
        "app/domain/feed.py",
        [("                watch.tail.told(logged)\n", "                pass\n")],
        [AT_FEED + "what_this_process_commits_needs_no_bus_and_no_reading"],
    ),
    Guard(
        "feed: what this process commits behind others is no doubt",
        "app/domain/tails.py",
        [("if self.position is not None and events[0].position == self.position + 1:", "if True:")],
        [AT_TAILS + "what_this_process_committed_behind_others_waits_for_the_bus_without_a_doubt"],
    ),
    Guard(
        "only what is next in line is used unread",
        "app/domain/tails.py",
        [("if any(event.position != known + place for place, event in enumerate(fresh, start=1)):", "if False:")],
        [AT_TAILS + "anything_else_is_a_doubt_and_adds_nothing"],
    ),
    # ── walls between tenants ────────────────────────────────────────────────────────────────────────
    Guard(
        "tenant policy: the API sees one tenant",
        ISOLATION,
        [('    "pc_api": ONE,\n', '    "pc_api": ALL,\n')],
        [
            AT_DOORS + "a_tenant_reads_what_it_wrote_and_another_does_not",
            AT_DOORS + "a_row_of_another_tenant_cannot_be_written",
            AT_CATALOGUE + "each_role_sees_exactly_its_rows",
        ],
    ),
    Guard(
        "tenant policy: ingest sees the tenants it names",
        ISOLATION,
        [('    "pc_ingest": MANY,\n', '    "pc_ingest": ALL,\n')],
        [
            AT_INGEST + "an_upload_for_a_tenant_that_was_not_named_is_refused_whole",
            AT_OUTBOX + "a_head_of_a_tenant_that_was_not_named_is_out_of_reach",
        ],
    ),
    Guard(
        "tenant policy: the feed sees the tenants it names",
        ISOLATION,
        [('    "pc_feed": MANY,\n', '    "pc_feed": ALL,\n')],
        [AT_DOORS + "across_sees_only_the_tenants_it_names"],
    ),
    Guard(
        "tenant policy: not even the owner passes it",
        ISOLATION,
        [('        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")\n', "")],
        [AT_CATALOGUE + "row_level_security_is_on_and_forced_everywhere"],
    ),
    Guard(
        "functions with other rights are closed to the public",
        ISOLATION,
        [('        op.execute(f"REVOKE ALL ON FUNCTION {signature} FROM PUBLIC")\n', "")],
        [AT_CATALOGUE + "what_runs_with_other_rights_is_narrow_and_closed_to_the_public"],
    ),
    Guard(
        "composite foreign key: a punch is of its tenant's device",
        TABLES,
        [
            (
                '["tenant_id", "device_id"], ["devices.tenant_id", "devices.id"], '
                'name=op.f("fk_punches_tenant_id_device_id")',
                '["tenant_id"], ["tenants.id"], name=op.f("fk_punches_tenant_id_device_id")',
            )
        ],
        [
            AT_INGEST + "a_punch_cannot_point_at_another_tenants_device",
            AT_CATALOGUE + "every_reference_between_tenants_tables_carries_the_tenant",
        ],
    ),
    Guard(
        "a terminal is heard only where it is bound",
        BINDINGS,
        [("if status != DeviceStatus.ACTIVE or not bound or not zone_name:", "if not zone_name:")],
        [
            AT_ICLOCK + "every_terminal_that_is_not_ours_is_answered_alike",
            AT_ICLOCK + "a_suspended_terminal_is_refused_within_seconds_and_heard_again_afterwards",
        ],
    ),
    Guard(
        "a stranger is asked for no data",
        ICLOCK,
        [("error_delay=60, ask_for_data=False", "error_delay=60")],
        [
            AT_ICLOCK + "the_handshake_of_a_stranger_asks_for_no_data",
            AT_ICLOCK + "a_terminal_that_was_told_to_send_nothing_is_told_to_check_once_it_is_bound",
        ],
    ),
    Guard(
        "keys: a use is dated when it was seen",
        KEYS,
        [("timedelta(seconds=at - seen)", "timedelta(seconds=at - at)")],
        [AT_KEYS + "the_last_use_is_when_it_was_seen_and_not_when_it_is_written_down"],
    ),
    Guard(
        "keys: no use after the end",
        TOUCHED,
        [("least(now() - used.age, k.revoked_at, k.expires_at)", "now() - used.age")],
        [AT_KEYS + "no_use_is_later_than_the_revocation"],
    ),
    Guard(
        "keys: the last use does not go back",
        TOUCHED,
        [(" AND (k.last_used_at IS NULL OR k.last_used_at < stale.used_at)", "")],
        [AT_KEYS + "the_last_use_does_not_go_back"],
    ),
    Guard(
        "keys: a revocation is not before the last use",
        KEYS,
        [("        key.last_used_at = at\n", "        pass\n")],
        [AT_KEYS + "a_use_that_was_written_by_a_faster_clock_is_not_later_than_the_revocation"],
    ),
    Guard(
        "a revoked key stops within seconds",
        KEYS,
        [("fresh_for: float = 2,", "fresh_for: float = 3600,")],
        [AT_KEYS + "a_revoked_key_stops_within_two_seconds"],
    ),
    Guard(
        "idempotency: the same key with other arguments is refused",
        "app/domain/idempotency.py",
        [('if row["fingerprint"] != wanted.fingerprint:', "if False:")],
        [AT_IDEMPOTENCY + "the_same_key_with_other_arguments_is_refused"],
    ),
    Guard(
        "a key does what its scopes say",
        KEYS,
        [("        if scope not in self.scopes:\n", "        if False:\n")],
        [
            AT_KEYS + "an_actor_without_the_scope_is_refused",
            "tests/schema/test_scopes.py::test_a_key_without_the_scope_is_refused_and_nothing_happens",
        ],
    ),
    Guard(
        "a key is never stronger than the one that makes it",
        KEYS,
        [
            (
                "if stronger := [scope for scope in key.scopes if scope not in actor.scopes]:",
                "if stronger := list[str]():",
            )
        ],
        [
            AT_KEYS + "a_key_cannot_make_a_stronger_one",
            "tests/schema/test_mutations.py::test_a_key_is_never_stronger_than_the_one_that_makes_it",
        ],
    ),
    Guard(
        "a socket says who it is before it asks",
        "schema/socket.py",
        [
            (
                '            self.end(TOO_EARLY, "subscribe came before connection_ack.")\n            return\n',
                '            self.end(TOO_EARLY, "subscribe came before connection_ack.") if False else None\n',
            )
        ],
        ["tests/schema/test_socket.py::test_subscribe_before_the_acknowledgement_is_4401"],
    ),
    # ── what is not kept ─────────────────────────────────────────────────────────────────────────────
    Guard(
        "passwords are emptied",
        "protocol/adms/records.py",
        [
            (
                'return Redacted(clean if table.upper() == "OPTIONS" else _PASSWORD.sub(rb"\\1", clean), ',
                "return Redacted(clean, ",
            )
        ],
        [AT_ICLOCK + "the_operation_log_is_kept_without_its_passwords"],
    ),
    Guard(
        "templates and photos are thrown away",
        "protocol/adms/records.py",
        [("_biometric(lines), strict=True) if not secret]\n", "_biometric(lines), strict=True)]\n")],
        [
            AT_ICLOCK + "templates_and_photos_are_counted_and_thrown_away",
            AT_CORPUS + "of_templates_photos_and_passwords_nothing_is_kept",
        ],
    ),
    Guard(
        "templates and passwords in the wrong table are not shown",
        "app/domain/ingest.py",
        [
            (
                "    kept = records.redact_lines([line.raw for line in lines])\n",
                "    kept = [line.raw for line in lines]\n",
            )
        ],
        ["tests/app/web/test_odd_input.py::test_templates_and_passwords_in_the_wrong_table_are_not_shown"],
    ),
    Guard(
        "an instant stays within the calendar",
        "protocol/adms/clock.py",
        [("    return EARLIEST if wall <= _FIRST else LATEST\n", "    return (wall - offset).replace(tzinfo=UTC)\n")],
        ["tests/app/web/test_odd_input.py::test_a_punch_from_the_ends_of_the_calendar_stands_in_nobodys_way"],
    ),
    # ── bounds ───────────────────────────────────────────────────────────────────────────────────────
    Guard(
        "a body is bounded as declared",
        ICLOCK,
        [("if not declared.isdigit() or int(declared) > bound:", "if not declared.isdigit():")],
        [AT_ICLOCK + "a_body_over_the_bound_is_refused_whole"],
    ),
    Guard(
        "a body is bounded as counted",
        ICLOCK,
        [
            ("            return body if len(body) <= bound else _TOO_LARGE\n", "            return body\n"),
            ("            if size > bound:\n", "            if size > 2 * bound:\n"),
        ],
        [AT_ICLOCK + "a_body_over_the_bound_is_refused_whole"],
    ),
    Guard(
        "the ingest queue is bounded",
        INTAKE,
        [("if self._waiting and self._waiting + weight > self._bound:", "if False:")],
        [
            AT_INTAKE + "a_full_queue_refuses_at_once_and_takes_again_when_it_is_empty",
            AT_ICLOCK + "when_too_much_waits_to_be_stored_the_next_upload_is_told_to_come_back",
        ],
    ),
    Guard(
        "a terminal has a rate",
        ICLOCK,
        [("        if believed.tokens < 1:\n            return False\n", "")],
        [AT_ICLOCK + "a_terminal_that_asks_too_often_is_refused_and_stores_nothing"],
    ),
    Guard(
        "strangers are bounded",
        BINDINGS,
        [("PENDING_BOUND,\n    )", "10**9,\n    )")],
        [AT_ICLOCK + "strangers_beyond_the_bound_are_refused_without_being_listed"],
    ),
    Guard(
        "a document has a depth",
        "schema/guards.py",
        [("    if size.depth > DEEPEST:\n", "    if False:\n")],
        ["tests/schema/test_guards.py::test_the_deepest_that_is_run_is_run_and_one_deeper_is_not"],
    ),
    # ── webhooks ─────────────────────────────────────────────────────────────────────────────────────
    Guard(
        "lease fence: only the holder settles",
        DELIVERIES,
        [
            (
                "    WHERE d.tenant_id = r.tenant_id AND d.id = r.id AND d.claim_token = r.token\n",
                "    WHERE d.tenant_id = r.tenant_id AND d.id = r.id\n",
            )
        ],
        [
            AT_DELIVERIES + "a_worker_that_lost_its_lease_changes_nothing",
            AT_DELIVERIES + "a_result_is_written_down_once",
        ],
    ),
    Guard(
        "address guard: loopback is refused",
        "app/domain/addresses.py",
        [('        "127.0.0.0/8": "loopback",\n', "")],
        [
            AT_ADDRESSES + "an_address_that_is_not_public_is_refused_with_its_reason",
            AT_OUTBOUND + "no_socket_is_made_for_a_forbidden_address_in_a_url",
            AT_POOL + "a_forbidden_address_is_an_attempt_without_a_request",
        ],
    ),
    # ── dev ──────────────────────────────────────────────────────────────────────────────────────────
    Guard(
        "dev: one at a time in a directory",
        "app/dev.py",
        [("            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "            pass\n")],
        ["tests/app/test_dev.py::test_beside_another_in_its_directory_it_ends_and_what_that_one_announced_stays"],
    ),
    Guard(
        "dev: nothing is started at a port that is taken",
        "app/dev.py",
        [("        await _find_port_free(plan)\n", "")],
        ["tests/app/test_dev.py::test_at_a_port_that_is_taken_it_ends_before_anything_is_started"],
    ),
    Guard(
        "command line: a port is a port",
        "app/cli.py",
        [("Parameter(validator=Number(gte=1, lte=65_535))", "Parameter()")],
        [AT_CLI + "a_number_out_of_its_range_is_wrong_usage_and_starts_nothing"],
    ),
    Guard(
        "command line: a number of processes is one",
        "app/cli.py",
        [("Parameter(validator=Number(gte=1))", "Parameter()")],
        [AT_CLI + "a_number_out_of_its_range_is_wrong_usage_and_starts_nothing"],
    ),
    Guard(
        "command line: serve asks first whether it can listen there",
        "app/cli.py",
        [("    listening.ask(host, port)\n", "")],
        [AT_CLI + "where_it_cannot_listen_serve_says_so_in_one_line"],
    ),
    Guard(
        "command line: a server that did not start ends with 1",
        "app/cli.py",
        [
            (
                '            raise Failed("The server did not start; the log above says why.") from exc\n',
                "            raise\n",
            )
        ],
        [AT_CLI + "a_port_that_is_taken_in_between_ends_with_1_as_well"],
    ),
    Guard(
        "dev: its terminals outlast it",
        "app/dev.py",
        [("*people, *memory,", "*people,")],
        ["tests/journeys/test_dev_again.py::test_a_terminal_of_dev_is_the_same_one_after_a_restart_and_after_a_crash"],
    ),
    Guard(
        "virtual terminals: a punch is on disk before it is sent",
        "app/simulator/terminal.py",
        [("        self._memory.add(written)\n", "")],
        [AT_SIMULATOR + "a_punch_is_written_down_before_it_is_sent"],
    ),
    Guard(
        "virtual terminals: what was acknowledged is not sent again after a power cut",
        "app/simulator/terminal.py",
        [("            self._memory.acknowledge([record.number for record in batch])\n", "            pass\n")],
        [AT_SIMULATOR + "after_a_power_cut_numbers_go_on_and_only_what_was_not_acknowledged_is_sent_again"],
    ),
    Guard(
        "virtual terminals: a reset empties the memory on disk",
        "app/simulator/terminal.py",
        [("        self._memory.wipe()\n", "")],
        [AT_SIMULATOR + "a_power_cut_leaves_users_and_a_reset_nothing"],
    ),
    Guard(
        "virtual terminals: their memory on disk has a bound",
        "app/simulator/terminal.py",
        [("            self._memory.let_go(oldest.number)\n", "")],
        [AT_SIMULATOR + "a_full_memory_stays_as_small_on_disk"],
    ),
    Guard(
        "virtual terminals: one process at a time has a memory",
        "app/simulator/memory.py",
        [("PRAGMA locking_mode = EXCLUSIVE;\n", "")],
        [AT_SIMULATOR + "a_memory_is_of_one_process_at_a_time"],
    ),
)


def main(words: Sequence[str]) -> int:
    """Print a table; 0 when every guard is watched."""
    guards = [guard for guard in tables() if all(word.lower() in guard.name.lower() for word in words)]
    if not guards:
        sys.exit(f"No guard has {' and '.join(words)} in its name.")
    with ExitStack() as held:
        trees = [held.enter_context(_copy()) for _ in range(min(os.cpu_count() or 1, len(guards)))]
        _show("nothing taken away", *_baseline(trees[0], guards))
        free = SimpleQueue[Path]()
        for tree in trees:
            free.put(tree)

        def attempt(guard: Guard) -> str | None:
            tree, started = free.get(), time.monotonic()
            try:
                verdict = _without(tree, guard)
            finally:
                free.put(tree)
            _show(guard.name, verdict, time.monotonic() - started)
            return verdict

        with ThreadPoolExecutor(len(trees)) as threads:
            verdicts = list(threads.map(attempt, guards))
    missed = sum(verdict is not None for verdict in verdicts)
    print(f"{len(guards) - missed} of {len(guards)} guards are watched.")
    return 1 if missed else 0


def lost(guards: Iterable[Guard]) -> Iterator[str]:
    """Guards whose lines or tests have moved on without them: it takes no run to know that these prove nothing."""
    sources: dict[str, str] = {}

    def source(file: str) -> str:
        if file not in sources:
            sources[file] = (ROOT / file).read_text("utf-8") if (ROOT / file).is_file() else ""
        return sources[file]

    for guard in guards:
        for before, _ in guard.changes:
            if (times := source(guard.file).count(before)) != 1:
                yield f"{guard.name}: its text is {times} times in {guard.file}: {before.strip()[:60]!r}"
        for test in guard.tests:
            file, _, name = test.partition("::")
            if f"def {name.partition('[')[0]}(" not in source(file):
                yield f"{guard.name}: there is no {test}"


def tables() -> Iterator[Guard]:
    """Ours and those of the files beside this one, which name their guards in our words."""
    yield from GUARDS
    for file in sorted(Path(__file__).parent.glob("guards_*.py")):
        yield from import_module(f"tests.{file.stem}").GUARDS


def _show(name: str, verdict: str | None, seconds: float) -> None:
    print(f"{name:<58} {'ok' if verdict is None else 'FAIL':<5}{seconds:5.1f} s  {verdict or ''}".rstrip(), flush=True)


@contextmanager
def _copy() -> Iterator[Path]:
    """The tree without what git ignores; gone afterwards."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with tempfile.TemporaryDirectory(prefix="punchconnect-guards-") as directory:
        tree = Path(directory).resolve()
        for name in filter(None, listed.stdout.decode().split("\0")):
            if (ROOT / name).is_file():  # else deleted and not yet committed
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, tree / name)
        yield tree


def _baseline(tree: Path, guards: Sequence[Guard]) -> tuple[str | None, float]:
    """Without this, a test that always fails would pass for a watchful one. Ends the program on failure."""
    started = time.monotonic()
    imported = _run(tree, "-c", f"import {', '.join(ROOMS)}; print({', '.join(f'{r}.__file__' for r in ROOMS)})")
    if [Path(place).parts[: len(tree.parts)] for place in imported.stdout.split()] != [tree.parts] * len(ROOMS):
        sys.exit(f"The copy in {tree} is not what was imported:\n{imported.stdout}{imported.stderr}")
    tests = sorted({test for guard in guards for test in guard.tests})
    ran = _pytest(tree, tests, "--tb=short", patience=PATIENCE * 6)
    if ran.returncode != 0:
        print(ran.stdout[-20_000:], ran.stderr[-2_000:], flush=True)
        sys.exit("The tests of the guards fail although nothing was taken away.")
    return None, time.monotonic() - started


def _without(tree: Path, guard: Guard) -> str | None:
    """Take the guard away and run its tests; None when all of them fail, else what went wrong."""
    file = tree / guard.file
    whole = text = file.read_text("utf-8")
    for before, after in guard.changes:
        if text.count(before) != 1:
            return f"its text is {text.count(before)} times in {guard.file}: {before.strip()[:60]!r}"
        text = text.replace(before, after)
    file.write_text(text, "utf-8")
    try:
        ran = _pytest(tree, guard.tests)
    finally:
        file.write_text(whole, "utf-8")
    failed = re.findall(r"^FAILED (\S+)", ran.stdout, re.MULTILINE)
    silent = [test for test in guard.tests if not any(name.partition("[")[0] == test for name in failed)]
    if ran.returncode != 1 and failed == []:
        return f"pytest ended with {ran.returncode}: {(ran.stdout + ran.stderr).strip()[-200:]!r}"
    return f"still pass: {', '.join(silent)}" if silent else None


def _pytest(
    tree: Path, tests: Sequence[str], trace: str = "--tb=no", *, patience: float = PATIENCE
) -> subprocess.CompletedProcess[str]:
    return _run(tree, "-m", "pytest", "--full", "-p", "no:cacheprovider", trace, "-rfE", *tests, patience=patience)


def _run(tree: Path, *arguments: str, patience: float = PATIENCE) -> subprocess.CompletedProcess[str]:
    """This Python in the copy, whose modules go before the installed ones. Whatever it starts ends with it."""
    command = [sys.executable, *arguments]
    environment = os.environ | {"PYTHONPATH": str(tree), "COLUMNS": "400"}
    with subprocess.Popen(
        command,
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, err = process.communicate()
            err += f"\nKilled after {patience:.0f} s."
    return subprocess.CompletedProcess(command, process.returncode, out, err)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
