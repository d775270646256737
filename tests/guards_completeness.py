"""The guards of completeness: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

RECONCILIATIONS = "app/domain/reconciliations.py"
AT = "tests/app/domain/test_reconciliations.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "completeness: what was sent again is not asked for once more",
        RECONCILIATIONS,
        [("if reported == 0 or part.filled is not None:", "if reported == 0:")],
        [
            AT + "what_was_sent_again_is_not_asked_for_a_second_time",
            AT + "what_a_terminal_counts_and_does_not_send_is_said_and_asked_for_once",
        ],
    ),
    Guard(
        "completeness: a known difference stays known",
        RECONCILIATIONS,
        [
            ("        missing = reported - stored - self._known(window)\n", "        missing = reported - stored\n"),
            ("    if reported - stored == known:\n", "    if reported == stored:\n"),
        ],
        [
            AT + "what_a_terminal_counts_and_does_not_send_is_said_and_asked_for_once",
            AT + "a_new_gap_beside_a_known_one_is_found_and_the_known_one_left_alone",
        ],
    ),
    Guard(
        "completeness: a backlog is waited for",
        RECONCILIATIONS,
        [("        if missing > 0 and shrinks and now_round.waits < MOST_WAITS:\n", "        if shrinks is None:\n")],
        [AT + "a_backlog_that_is_still_coming_is_waited_for_and_not_asked_for"],
    ),
    Guard(
        "completeness: fillings have a bound",
        RECONCILIATIONS,
        [("elif verdict is Verdict.FILL and self.round.fills >= MOST_FILLS:", "elif verdict is None:")],
        [AT + "a_round_has_a_bound_and_the_next_one_goes_on"],
    ),
    Guard(
        "completeness: counts have a bound",
        RECONCILIATIONS,
        [("bool(self.round.todo) and self.round.counts >= MOST_COUNTS", "False")],
        [AT + "counts_of_a_round_have_a_bound"],
    ),
    Guard(
        "completeness: a silent terminal is given up",
        RECONCILIATIONS,
        [('    if row["tries"] >= MOST_TRIES:\n', '    if row["tries"] < 0:\n')],
        [AT + "a_terminal_that_never_answers_is_given_up_for_this_round"],
    ),
    Guard(
        "completeness: one step at a time",
        RECONCILIATIONS,
        [("r.due_at <= now() AND {_IDLE} FOR UPDATE", "r.due_at <= now() FOR UPDATE")],
        [AT + "twins_that_are_polled_at_once_ask_once"],
    ),
    Guard(
        "completeness: rounds keep their distance",
        RECONCILIATIONS,
        [(", r.begun_at + $3::interval)", ", r.begun_at + $3::interval * 0)")],
        [AT + "a_link_that_comes_and_goes_does_not_begin_rounds_without_end"],
    ),
    Guard(
        "completeness: firmware that counts everything",
        RECONCILIATIONS,
        [("if reported == part.whole and stored and part.start == self.round.start:", "if reported is None:")],
        [AT + "a_terminal_that_counts_everything_whatever_it_is_asked_is_found_out"],
    ),
)

COMMANDS, AT_SWEEPER = "app/domain/commands.py", "tests/workers/test_sweeper.py::test_"
GUARDS += (
    Guard(
        "completeness: users that are not shown",
        RECONCILIATIONS,
        [("not in {0, self.users_differ}:", "!= 0:")],
        [AT + "users_that_are_counted_and_not_shown_are_not_asked_for_every_time"],
    ),
    Guard(
        "commands: old ones leave, the last one stays",
        COMMANDS,
        [("l.number > coalesce(c.number, 0)", "l.number >= coalesce(c.number, 0)")],
        [AT_SWEEPER + "commands_that_ended_long_ago_leave_and_the_last_one_of_a_device_stays"],
    ),
    Guard(
        "completeness: a unit is asked once in a round to send again",
        RECONCILIATIONS,
        [('    if now_round.after is not None and row["tries"]:\n', "    if now_round.after is None is not None:\n")],
        [AT + "a_unit_that_does_not_answer_is_asked_once_in_a_round_and_not_for_ever_from_the_same_number"],
    ),
    Guard(
        "completeness: silence of a unit is taken for an answer in the end",
        RECONCILIATIONS,
        [("        if self.unanswered >= MOST_UNANSWERED:\n", "        if self.unanswered < 0:\n")],
        [AT + "a_unit_that_does_not_answer_is_asked_once_in_a_round_and_not_for_ever_from_the_same_number"],
    ),
    Guard(
        "completeness: what was sent again by number is not asked for once more",
        RECONCILIATIONS,
        [
            (
                "            self.resent = (self.round.through, self.round.generation)\n            self.state",
                "            self.state",
            )
        ],
        [AT + "what_a_unit_has_sent_again_it_is_not_asked_for_a_second_time"],
    ),
    Guard(
        "completeness: numbers are those of one life of the memory",
        RECONCILIATIONS,
        [('if through is None or generation != numbers["generation"]:', "if through is None:")],
        [AT + "a_unit_whose_memory_began_anew_is_asked_from_its_first_number_on"],
    ),
    Guard(
        "completeness: what a unit sends again is not handed out twice",
        COMMANDS,
        [
            (
                'wire.ResendAfter(given["number"]), timedelta(hours=1), again=False,',
                'wire.ResendAfter(given["number"]), timedelta(hours=1), again=True,',
            )
        ],
        [AT + "a_unit_that_does_not_answer_is_asked_once_in_a_round_and_not_for_ever_from_the_same_number"],
    ),
)
