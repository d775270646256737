"""The guards of pages for people: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

PLAYGROUND = "app/web/playground.py"
SESSIONS, CELLS, LIVE = "app/web/dashboard/sessions.py", "app/web/dashboard/punches.py", "app/web/dashboard/live.py"
AT_DASHBOARD = "tests/app/web/test_dashboard.py::test_"
AT_PLAYGROUND = "tests/app/web/test_playground.py::test_"

GUARDS: tuple[Guard, ...] = (
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
