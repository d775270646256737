"""The guards of how operations are executed: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

EXECUTOR, LOADERS, RUNNING = "schema/executor.py", "schema/loaders.py", "schema/running.py"
AT_EXECUTOR, AT_SUBSCRIPTIONS = "tests/schema/test_executor.py::test_", "tests/schema/test_subscriptions.py::test_"
AT_DATABASE = "tests/app/test_database.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "executor: a plan belongs to fields that are still there",
        EXECUTOR,
        [("self._plans[id(fields)] = (fields, plan)", "self._plans[id(fields)] = (None, plan)")],
        [AT_EXECUTOR + "a_plan_is_not_taken_for_that_of_other_fields_at_the_same_place"],
    ),
    Guard(
        "executor: what does not fit its type goes the long way",
        EXECUTOR,
        [("    return way.origin is None or type(value) is way.origin\n", "    return True\n")],
        [AT_EXECUTOR + "an_object_of_another_class_is_not_taken_for_one_of_this_type"],
    ),
    Guard(
        "executor: what is given up has begun, or Python warns of it",
        EXECUTOR,
        [
            (
                "await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)\n        for",
                "await asyncio.gather(*tasks)\n        for",
            )
        ],
        [AT_EXECUTOR + "whenever_an_operation_is_given_up_or_breaks_nothing_of_it_is_left_unawaited"],
    ),
    Guard(
        "executor: what a variable decides is not kept with the document",
        EXECUTOR,
        [("                isinstance(one.value, VariableNode) for one in", "                False for one in")],
        [AT_EXECUTOR + "what_depends_on_a_variable_is_worked_out_for_each_operation"],
    ),
    Guard(
        "executor: what a variable may skip is not kept with the document",
        EXECUTOR,
        [('"@" not in document.loc.source.body', "True")],
        [AT_EXECUTOR + "what_depends_on_a_variable_is_worked_out_for_each_operation"],
    ),
    Guard(
        "executor: what a subscription selects is looked up once",
        EXECUTOR,
        [
            ("            if not self._roots:\n", "            if True:\n"),
        ],
        [
            AT_EXECUTOR + "a_subscription_that_lives_long_remembers_no_more_than_its_document",
            "tests/schema/test_sharing.py::test_a_group_that_lives_long_remembers_no_more_than_its_document",
        ],
    ),
    Guard(
        "executor: it is gone with its operation",
        EXECUTOR,
        [
            (
                "helpers: GraphQLResolveInfoHelpers) -> None:\n        pass\n",
                "helpers: Any) -> None:\n        self.kept = helpers\n",
            )
        ],
        [AT_EXECUTOR + "what_an_operation_held_is_gone_with_it_and_waits_for_no_collector"],
    ),
    Guard(
        "loaders: nobody is cancelled with another",
        LOADERS,
        [("return found if found.done() else asyncio.shield(found)", "return found")],
        [AT_EXECUTOR + "a_field_that_breaks_takes_no_row_from_those_that_wait_for_the_same"],
    ),
    Guard(
        "audit: who signs in is written down",
        "app/web/dashboard/desk.py",
        [("            await self._note_entry(actor)\n", "")],
        ["tests/app/web/test_audit.py::test_a_form_leaves_who_did_what_to_which_object"],
    ),
    Guard(
        "keys: of the keys of who waits it is asked whether they live",
        "schema/held.py",
        [(", *(each.actor.key_id for each in self._watched)})", "})")],
        ["tests/schema/test_revocation.py::test_a_long_poll_ends_by_itself"],
    ),
    Guard(
        "keys: what waits is told of its key's end",
        "schema/held.py",
        [("        return [*self._connections, *self._watched]\n", "        return [*self._connections]\n")],
        [
            "tests/schema/test_revocation.py::test_a_revoked_key_ends_all_that_is_done_with_it",
            "tests/schema/test_revocation.py::test_a_long_poll_ends_by_itself",
        ],
    ),
    Guard(
        "sockets: a query or mutation has a deadline",
        RUNNING,
        [("in await operations.in_time(context, _all(stream)):", "in await _all(stream):")],
        [AT_SUBSCRIPTIONS + "a_query_on_a_socket_that_takes_too_long_is_given_up_and_a_feed_goes_on"],
    ),
    Guard(
        "database: reads that share a transaction see rows anew",
        "app/database.py",
        [("                self._session.expunge_all()  # the next read sees rows anew\n", "")],
        [AT_DATABASE + "reads_of_one_operation_share_a_transaction_and_see_what_was_committed_meanwhile"],
    ),
    Guard(
        "database: an operation that waits for something else holds no connection",
        "app/database.py",
        [("call_later(LINGER, self.end)", "call_later(60, self.end)")],
        [AT_DATABASE + "an_operation_that_reads_no_more_gives_its_connection_back"],
    ),
    Guard(
        "database: an operation that reads for ever holds no transaction for long",
        "app/database.py",
        [("if self._held is not None and loop.time() > self._until:", "if False:")],
        [AT_DATABASE + "an_operation_that_reads_for_ever_begins_another_transaction_now_and_then"],
    ),
    Guard(
        "database: a connection that was cut is not lent",
        "app/database.py",
        [("    if connection.driver_connection.is_closed():", "    if False:")],
        [AT_DATABASE + "connections_that_were_cut_while_idle_are_not_lent"],
    ),
    Guard(
        "database: a statement at once does not go to a connection that was cut",
        "app/database.py",
        [
            (
                "            if not connection.is_closed():\n                return connection",
                "            return connection",
            )
        ],
        [AT_DATABASE + "statements_at_once_share_a_connection_until_it_is_cut_or_leaves_them_waiting"],
    ),
    Guard(
        "database: a statement that nobody waits for any more is cancelled",
        "app/database.py",
        [
            (
                "            await connection.close(timeout=5)\n\n    @asynccontextmanager\n    async def _lent",
                "            connection.terminate()\n\n    @asynccontextmanager\n    async def _lent",
            )
        ],
        [AT_DATABASE + "statements_at_once_share_a_connection_until_it_is_cut_or_leaves_them_waiting"],
    ),
)
