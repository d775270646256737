"""The guards of whatever is written: by whom, and whether the plan allows it. See tests/guards.py."""

from __future__ import annotations

from tests.guards import Guard

AT_PLANS = "tests/schema/test_plans.py::test_"
AT_FORMS = "tests/app/web/test_plans.py::test_"
ACTS = "app/domain/acts.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "plans: what is not safe is asked about",
        ACTS,
        [("    if allowed is None or not allowed(given):", "    if False:")],
        [
            AT_PLANS + "after_the_trial_a_mutation_changes_nothing_unless_it_is_safe[siteCreate]",
            AT_PLANS + "a_suspended_plan_refuses_the_same[employeeUpsert]",
            AT_FORMS + "a_form_that_writes_is_refused[employees/import--]",
        ],
    ),
    Guard(
        "plans: an endpoint is only paused",
        ACTS,
        [('    return given.get("status") == "PAUSED" and given.keys() <= {"id", "status"}', "    return True")],
        [AT_PLANS + "only_a_pause_by_itself_is_safe_for_an_endpoint"],
    ),
    Guard(
        "plans: a trial ends by the clock",
        "app/domain/tenants.py",
        [("and tenant.trial_ends_at <= at\n", "and False\n")],
        [AT_PLANS + "a_trial_counts_down_and_an_active_plan_has_no_end"],
    ),
)
