"""The guards of what a document may ask, and of what asking costs: see tests/guards.py, which takes them away."""

from __future__ import annotations

from tests.guards import Guard

AT = "tests/schema/test_guards.py::test_"
FILE = "schema/guards.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "documents: a fragment is measured once",
        FILE,
        [("        if name not in self._measured and name in self._fragments:", "        if name in self._fragments:")],
        [AT + "a_document_is_measured_through_its_fragments"],
    ),
    Guard(
        "documents: what is too long is not read",
        FILE,
        [("    if len(document) > LONGEST:", "    if False:")],
        [AT + "a_document_of_too_many_characters_is_refused"],
    ),
    Guard(
        "documents: one field appears so often at most",
        FILE,
        [("    if size.namesakes > MOST_NAMESAKES:", "    if False:")],
        [AT + "a_field_that_appears_too_often_is_refused"],
    ),
    Guard(
        "documents: so many aliases, directives, root fields and fragments at most",
        FILE,
        [("        if found > most:", "        if False:")],
        [AT + "as_many_as_may_be_are_run_and_one_more_is_not"],
    ),
    Guard(
        "documents: what is remembered is bounded",
        "schema/documents.py",
        [("            if len(self._kept) > self._most:", "            if False:")],
        [AT + "of_documents_remembered_the_one_unused_for_longest_goes_first"],
    ),
    Guard(
        "cost: an operation over the bound is not run",
        "schema/operations.py",
        [("    if points > most:", "    if False:")],
        ["tests/schema/test_cost.py::test_a_query_that_could_cost_too_much_is_refused_before_it_runs"],
    ),
    Guard(
        "cost: nothing runs on an empty budget",
        "schema/operations.py",
        [("        if not allowance.granted:", "        if False:")],
        ["tests/schema/test_cost.py::test_who_has_spent_everything_is_told_when_to_come_back"],
    ),
    Guard(
        "cost: who makes a mistake is told of its own budget",
        "schema/http.py",
        [
            (
                "            raise wrong or exc from None\n",
                "            raise wrong or exc from None\n        if wrong is not None:\n            raise wrong\n",
            )
        ],
        ["tests/schema/test_cost.py::test_who_makes_a_mistake_is_told_of_its_own_budget"],
    ),
    Guard(
        "cost: nobody's budget is no empty one",
        "schema/http.py",
        [("remaining = limit if allowance is None", "remaining = 0 if allowance is None")],
        ["tests/schema/test_cost.py::test_both_families_of_headers_are_on_every_answer"],
    ),
    Guard(
        "cost: a subscription is paid when it begins",
        "schema/running.py",
        [("        if self._toll is not None and not paid:", "        if False:")],
        ["tests/schema/test_subscriptions.py::test_what_runs_on_a_socket_is_paid_like_everything_else"],
    ),
    Guard(
        "cost: an operation has a deadline",
        "schema/operations.py",
        [("asyncio.timeout(DEADLINE)", "asyncio.timeout(None)")],
        ["tests/schema/test_cost.py::test_an_operation_that_takes_too_long_is_given_up"],
    ),
    Guard(
        "budget: one script takes and counts",
        "app/limits.py",
        [("if cost <= points or ARGV[4] == '1' then", "if true then")],
        ["tests/app/test_limits.py::test_of_many_at_once_as_many_pass_as_there_are_points"],
    ),
    Guard(
        "budget: what is taken ahead is little",
        "app/limits.py",
        [(" or known.unsaid + cost > self.most * AHEAD:", ":")],
        ["tests/app/test_limits.py::test_a_process_takes_little_before_redis_hears_of_it"],
    ),
    Guard(
        "budget: what is taken ahead is counted, even out of an empty bucket",
        "app/limits.py",
        [(" or ARGV[4] == '1' then", " then")],
        ["tests/app/test_limits.py::test_what_was_taken_while_others_emptied_the_bucket_is_counted"],
    ),
    Guard(
        "budget: of less than half a bucket nothing is taken ahead",
        "app/limits.py",
        [("        if waited > FRESH or left < self.most / 2:", "        if waited > FRESH:")],
        ["tests/app/test_limits.py::test_processes_share_a_bucket_and_tenants_do_not"],
    ),
    Guard(
        "budget: Redis has a moment to answer",
        "app/asking.py",
        [("asyncio.timeout(ATTEMPT)", "asyncio.timeout(None)")],
        ["tests/app/test_limits.py::test_a_frozen_redis_holds_nobody_up_and_is_used_again_when_it_thaws"],
    ),
    Guard(
        "budget: without Redis a process grants a part",
        "app/limits.py",
        [("        part = 1.0 if url is None else LOCAL_PART", "        part = 1.0")],
        ["tests/app/test_limits.py::test_without_redis_each_process_grants_a_part"],
    ),
    Guard(
        "lists: statements that are kept have a bound",
        "app/paging.py",
        [("@lru_cache(maxsize=KEPT)\n", "@lru_cache(maxsize=None)\n")],
        ["tests/app/test_paging.py::test_statements_that_are_kept_have_a_bound"],
    ),
    Guard(
        "readiness: a database that says nothing is not waited for",
        "app/web/health.py",
        [("asyncio.wait([asking], timeout=PATIENCE)", "asyncio.wait([asking], timeout=None)")],
        ["tests/app/web/test_health.py::test_a_database_that_says_nothing_is_as_good_as_away"],
    ),
)
