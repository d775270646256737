"""The guards of pages for people: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

PLAYGROUND = "app/web/playground.py"
SESSIONS, CELLS, LIVE = "app/web/dashboard/sessions.py", "app/web/dashboard/punches.py", "app/web/dashboard/live.py"
DESK = "app/web/dashboard/desk.py"
SCRIPT = "app/web/static/dashboard/dashboard.js"
PEOPLE = "app/web/dashboard/employees.py"
AT_DASHBOARD = "tests/app/web/test_dashboard.py::test_"
AT_PLAYGROUND = "tests/app/web/test_playground.py::test_"

SIGNUPS, AT_SIGNUP = "app/domain/signups.py", "tests/app/web/test_signup.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "pages: a browser that is refused gets a page",
        "app/main.py",
        [("if dashboard.is_looked_at(request):", "if False:")],
        [AT_DASHBOARD + "a_browser_that_is_refused_gets_a_page_and_a_way_back"],
    ),
    Guard(
        "pages: a program that is refused gets JSON",
        "app/main.py",
        [("if dashboard.is_looked_at(request):", "if True:")],
        [AT_DASHBOARD + "a_program_that_is_refused_gets_json"],
    ),
    Guard(
        "pages: only what was sent was not changed",
        "app/web/dashboard/desk.py",
        [('sent=request.method not in ("GET", "HEAD")', "sent=True")],
        [AT_DASHBOARD + "a_refused_form_says_that_nothing_was_changed"],
    ),
    Guard(
        "pages: nobody signs up unless the operator says so",
        "app/web/dashboard/desk.py",
        [
            (
                '        if not settings.signup:\n            return self._refuse(request, None, NotFound("One cannot '
                'sign up here: ask for an API key."))\n',
                "",
            )
        ],
        [AT_SIGNUP + "nobody_can_sign_up_unless_the_operator_says_so"],
    ),
    Guard(
        "pages: one sign-up at a time is counted",
        SIGNUPS,
        [('    await connection.execute("SELECT pg_advisory_xact_lock($1)", _TURN)\n', "")],
        [AT_SIGNUP + "an_address_starts_three_trials_a_day_whichever_process_it_asks"],
    ),
    Guard(
        "pages: an address starts so many trials",
        SIGNUPS,
        [('row["here"] >= per_address', "False")],
        [AT_SIGNUP + "an_address_starts_three_trials_a_day_whichever_process_it_asks"],
    ),
    Guard(
        "pages: so many trials are started in a day",
        SIGNUPS,
        [('row["all"] >= per_day', "False")],
        [AT_SIGNUP + "all_addresses_together_start_so_many_and_no_more"],
    ),
    Guard(
        "pages: an address is forgotten after a day",
        SIGNUPS,
        [("SET address_hash = NULL WHERE", "SET address_hash = address_hash WHERE")],
        [AT_SIGNUP + "after_a_day_an_address_may_again_and_is_forgotten"],
    ),
    Guard(
        "pages: only a trusted proxy says where a visitor comes from",
        "app/web/middleware.py",
        [("while hops and _is_in(at, trusted):", "while hops:")],
        [AT_SIGNUP + "an_address_that_nobody_vouches_for_is_not_believed"],
    ),
    Guard(
        "pages: a demo key does not leave the machine",
        PLAYGROUND,
        [("if near and not forwarded else None", "if not forwarded else None")],
        [AT_PLAYGROUND + "nobody_else_is_handed_a_key"],
    ),
    Guard(
        "pages: a proxy on this machine makes nobody near",
        PLAYGROUND,
        [("if near and not forwarded else None", "if near else None")],
        [AT_PLAYGROUND + "nobody_else_is_handed_a_key"],
    ),
    Guard(
        "pages: a form is of this session",
        SESSIONS,
        [("    if not hmac.compare_digest(token.encode(), session.form_token.encode()):", "    if False:")],
        [AT_DASHBOARD + "a_form_of_another_site_changes_nothing"],
    ),
    Guard(
        "pages: a form comes from this site",
        SESSIONS,
        [("    check_origin(request)\n    if not hmac", "    if not hmac")],
        [AT_DASHBOARD + "a_form_of_another_site_changes_nothing"],
    ),
    Guard(
        "pages: a session ends after twelve hours",
        SESSIONS,
        [("if not 0 <= self._clock() - kept", "if not 0 <= 0 * self._clock() * kept")],
        [AT_DASHBOARD + "after_twelve_hours_a_session_is_over"],
    ),
    Guard(
        "pages: a stream ends with its key",
        LIVE,
        [("                    if not await _alive(visit):\n                        return\n", "")],
        [AT_DASHBOARD + "the_stream_ends_with_its_key"],
    ),
    Guard(
        "pages: a stream does not hold up a restart",
        LIVE,
        [("                    if _stops(visit):\n                        return\n", "")],
        [AT_DASHBOARD + "a_stopping_server_ends_its_streams_at_once_and_signs_nobody_out"],
    ),
    Guard(
        "pages: who takes nothing does not hold up a restart",
        LIVE,
        [("        answer.cut(at_once=True)\n", "        pass\n")],
        [AT_DASHBOARD + "a_browser_that_takes_nothing_does_not_hold_up_a_stopping_server"],
    ),
    Guard(
        "pages: who has a PIN is not written over by adding it",
        "app/domain/roster.py",
        [("    if new and (known", "    if False and (known")],
        [
            AT_DASHBOARD + "adding_a_pin_that_somebody_has_changes_nobody_and_says_who_has_it",
            AT_DASHBOARD + "of_two_who_add_a_pin_at_once_one_does",
        ],
    ),
    Guard(
        "pages: an old page of a person takes nothing back",
        PEOPLE,
        [(' and visit.given(name) != visit.given(f"shown_{name}")', "")],
        [AT_DASHBOARD + "a_page_that_is_older_than_its_person_takes_nothing_back"],
    ),
    Guard(
        "pages: a form is done once",
        DESK,
        [("done = await idempotency.once(session, self.tenant_id, call, act)", "done = await act()")],
        [
            AT_DASHBOARD + "a_form_that_is_sent_again_does_nothing_again_and_says_so",
            AT_DASHBOARD + "a_form_that_is_sent_many_times_at_once_is_done_once",
        ],
    ),
    Guard(
        "pages: a form that shows a secret has a value of its own",
        DESK,
        [
            (
                '        key = self.given("once")\n        if not key:\n',
                '        key = self.given("once") or secrets.token_hex()\n        if not key:\n',
            )
        ],
        [
            AT_DASHBOARD
            + "a_form_that_was_refused_can_be_mended_and_one_that_was_used_cannot_be_used_for_something_else"
        ],
    ),
    Guard(
        "pages: a key is made for a day at least",
        "app/web/dashboard/keys.py",
        [("not 1 <= days <= 3650", "not 0 <= days <= 3650")],
        [AT_DASHBOARD + "a_key_is_not_made_for_no_days"],
    ),
    Guard(
        "pages: signing in leads to the page that was asked for",
        DESK,
        [("_door_to(request) if page else", "")],
        [AT_DASHBOARD + "signing_in_leads_to_the_page_that_was_asked_for"],
    ),
    Guard(
        "pages: signing in leads nowhere else",
        DESK,
        [("return path if WANTED.fullmatch(path) else HOME", "return path if path.isprintable() else HOME")],
        [AT_DASHBOARD + "signing_in_leads_nowhere_else"],
    ),
    Guard(
        "pages: signing out in one tab is signing out in all",
        SCRIPT,
        [(' else tabs.postMessage("");', "")],
        ["tests/app/web/test_screens.py::test_signing_out_in_one_tab_ends_the_live_page_in_another"],
    ),
    Guard(
        "pages: a second click does not hide what the first one shows",
        SCRIPT,
        [("if (again || (question", "if ((question")],
        ["tests/app/web/test_screens.py::test_a_second_click_does_not_hide_what_the_first_one_shows"],
    ),
    Guard(
        "pages: an import stops with its key",
        "app/web/dashboard/employees.py",
        [("if not await visit.desk.sessions.alive(visit.session):", "if False:")],
        [AT_DASHBOARD + "an_import_stops_when_its_key_does_and_says_how_far_it_came"],
    ),
    Guard(
        "pages: who is placed by two at once is placed by both",
        "app/domain/roster.py",
        [("_ROW.id == employee_id).with_for_update(key_share=True)", "_ROW.id == employee_id)")],
        [AT_DASHBOARD + "two_who_place_a_person_at_once_both_do"],
    ),
    Guard(
        "pages: a key has so many streams",
        LIVE,
        [("if streams[key_id] >= visit.parts", "if False and streams[key_id] >= visit.parts")],
        [AT_DASHBOARD + "a_key_has_so_many_streams_and_no_more"],
    ),
    Guard(
        "pages: no cell is a formula",
        CELLS,
        [('return f"\'{text}" if text[:1]', "return text if text[:1]")],
        [AT_DASHBOARD + "a_cell_is_no_formula", AT_DASHBOARD + "a_file_has_every_punch_and_no_formula"],
    ),
)
