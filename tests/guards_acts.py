"""The guards of whatever is written: by whom, and whether the plan allows it. See tests/guards.py."""

from __future__ import annotations

from tests.guards import Guard

AT_PLANS = "tests/schema/test_plans.py::test_"
AT_FORMS = "tests/app/web/test_plans.py::test_"
AT_AUDIT = "tests/schema/test_audit.py::test_"
AT_TOKENS = "tests/schema/test_stream_tokens.py::test_"
ACTS = "app/domain/acts.py"
AUDIT = "app/domain/audit.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "plans: what is not safe is asked about",
        ACTS,
        [("    if allowed is None or not allowed(given):", "    if False:")],
        [
            AT_PLANS + "after_the_trial_a_mutation_changes_nothing_unless_it_is_safe",
            AT_PLANS + "a_suspended_plan_refuses_the_same",
            AT_FORMS + "a_form_that_writes_is_refused",
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
    Guard(
        "audit: what is done is written down",
        ACTS,
        [("    await audit.add(await driver(session)", "    None and await audit.add(await driver(session)")],
        [AT_AUDIT + "each_mutation_leaves_who_did_what_to_which_object"],
    ),
    Guard(
        "audit: what people type is not kept",
        AUDIT,
        [(" if name in KEPT else UNSAID", "")],
        [AT_AUDIT + "no_secret_and_no_person_is_in_the_log", AT_AUDIT + "what_is_kept_of_arguments_is_bounded"],
    ),
    Guard(
        "audit: nobody changes an entry",
        "app/migrations/versions/0015_audit_log.py",
        [('"pc_api": ("SELECT, INSERT", _ONE)', '"pc_api": ("SELECT, INSERT, UPDATE, DELETE", _ONE)')],
        [
            AT_AUDIT + "no_role_of_the_application_changes_an_entry",
            "tests/app/test_catalogue.py::test_each_role_has_exactly_its_grants",
        ],
    ),
    Guard(
        "stream tokens: a token makes none",
        "app/domain/stream_tokens.py",
        [("    if actor.read_only:", "    if False:")],
        [AT_TOKENS + "a_token_cannot_make_a_token"],
    ),
    Guard(
        "stream tokens: they have an end",
        "app/domain/keys.py",
        [("        if token.expires_at <= now():", "        if False:")],
        [AT_TOKENS + "a_token_that_ended_and_one_that_was_edited_are_nobodys"],
    ),
    Guard(
        "stream tokens: what is open ends with them",
        "schema/held.py",
        [("            self._end_expired(now())\n", "")],
        [
            AT_TOKENS + "a_token_works_on_a_socket_until_it_ends",
            AT_TOKENS + "event_streams_take_a_token_and_end_with_it",
        ],
    ),
    Guard(
        "stream tokens: their scopes are few",
        "app/domain/keys.py",
        [("            scopes=actor.scopes & tokens.SCOPES,\n", "")],
        [AT_TOKENS + "a_token_opens_nothing_else"],
    ),
    Guard(
        "stream tokens: other sites do not exist",
        "schema/context.py",
        [("        self.db = self.db.within(self.actor.site_ids)\n", "")],
        [
            AT_TOKENS + "what_stands_elsewhere_does_not_exist",
            AT_TOKENS + "a_filter_cannot_widen_what_a_token_sees",
        ],
    ),
    Guard(
        "stream tokens: other sites do not come over the feed",
        "app/domain/punch_feed.py",
        [("        if within is not None:", "        if False:")],
        [AT_TOKENS + "a_socket_brings_only_what_stands_there"],
    ),
    Guard(
        "schema: what breaks a client is refused",
        "tests/checks.py",
        [("    if broken := unallowed(published, printed, ALLOWED.read_text()):", "    if broken := []:")],
        ["tests/schema/test_breaking.py::test_the_check_fails_and_says_what_to_do"],
    ),
)
