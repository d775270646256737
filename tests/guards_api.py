"""The guards of the API as a whole: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

PAGING, QUERIES = "app/paging.py", "schema/queries.py"
AT_LISTS, AT_TWO = "tests/schema/test_lists.py::test_", "tests/schema/test_two_tenants.py::test_"
AT_ONCE, AT_SCOPES = "tests/schema/test_idempotency.py::test_", "tests/schema/test_scopes.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "lists: a cursor is of one tenant",
        PAGING,
        [('b"list" + tenant_id.bytes + text', 'b"list" + text')],
        [
            AT_LISTS + "a_cursor_that_does_not_belong_is_refused",
            AT_TWO + "another_tenants_name_gets_what_nobodys_gets",
        ],
    ),
    Guard(
        "lists: a cursor is of one list, order and filter",
        PAGING,
        [("        if text[1 : 1 + _BINDING_BYTES] != binding:\n", "        if False:\n")],
        [AT_LISTS + "a_cursor_that_does_not_belong_is_refused"],
    ),
    Guard(
        "lists: rows of one instant are told apart",
        PAGING,
        [("columns = [self.id] if self.key is None else [self.key, self.id]", "columns = [self.key or self.id]")],
        ["tests/schema/test_pages.py::test_pages_of_any_size_either_way_hold_every_punch_once_and_in_order"],
    ),
    Guard(
        "lists: what lies before a page is read from the index",
        PAGING,
        [(".order_by(*order.sorting(backward=True)),\n", ",\n")],
        ["tests/schema/test_statements.py::test_a_page_of_punches_is_read_from_an_index_in_its_order"],
    ),
    Guard(
        "node asks for the scope of what it finds",
        QUERIES,
        [("    if scope is not None:\n        context.actor.may(scope)\n", "")],
        [AT_SCOPES + "a_key_without_the_scope_is_refused_and_nothing_happens"],
    ),
    Guard(
        "idempotency: the twin waits for the first",
        "app/domain/idempotency.py",
        [
            (
                "VALUES ($1, $2, $3, $4, '{}', now()) ON CONFLICT DO NOTHING RETURNING true\n",
                "VALUES ($1, $2, $3 || gen_random_uuid(), $4, '{}', now()) ON CONFLICT DO NOTHING RETURNING true\n",
            )
        ],
        [
            AT_ONCE + "a_repeat_gets_the_answer_and_does_nothing",
            AT_ONCE + "fifty_at_once_with_one_key_have_the_effect_of_one",
        ],
    ),
    Guard(
        "a key that was revoked during a long poll gets nothing",
        QUERIES,
        [("            await keys.check(context.db, context.actor)\n", "            pass\n")],
        ["tests/schema/test_queries.py::test_a_key_revoked_during_a_long_poll_gets_nothing"],
    ),
)
