"""The guards of the live feed: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import Guard

SHARING, PIPE, STREAMS, HELD = "schema/sharing.py", "schema/pipe.py", "schema/streams.py", "schema/held.py"
AT_SHARING, AT_SOCKET = "tests/schema/test_sharing.py::test_", "tests/schema/test_socket.py::test_"
AT_WATCHING = "tests/schema/test_watching.py::test_"
PLACES, AT_PLACES, AT_HELD = "app/places.py", "tests/app/test_places.py::test_", "tests/schema/test_held.py::test_"
AT_STREAMS = "tests/schema/test_streams.py::test_"
AT_TROUBLE, AT_LIVE = "tests/schema/test_trouble.py::test_", "tests/journeys/test_live_feed.py::test_"
AT_QUERIES, AT_PULLS = "tests/schema/test_queries.py::test_", "tests/app/domain/test_punch_feed.py::test_"
FEED, BROADCAST = "app/domain/feed.py", "app/broadcast.py"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "sharing: a piece goes only to whom it fits",
        SHARING,
        [("                if piece.fits(position):\n", "                if True:\n")],
        [AT_SHARING + "nobody_who_comes_and_goes_misses_or_repeats_anything"],
    ),
    Guard(
        "sharing: a piece ends before what a member has seen",
        SHARING,
        [
            (
                "self.start <= position < self.first if self.first is not None else self.start <= position <= self.end",
                "self.start <= position <= self.end",
            )
        ],
        [AT_SHARING + "a_piece_fits_where_it_is_exactly_what_follows"],
    ),
    Guard(
        "sharing: nobody joins a group that has gone on",
        SHARING,
        [
            (
                "        if live.position < group.start:\n            return None",
                "        if False:\n            return None",
            )
        ],
        [AT_SHARING + "who_is_behind_its_group_does_not_join_it"],
    ),
    Guard(
        "sharing: rights are part of what is alike",
        SHARING,
        [("if part.name not in OWN)\n    return (rights", "if part.name == 'plan')\n    return (rights")],
        [AT_SHARING + "other_tenants_and_other_rights_are_not_alike"],
    ),
    Guard(
        "sharing: a group has no key",
        SHARING,
        [("        raise DependsOnViewer\n", "        return UUID(int=0)\n")],
        [AT_SHARING + "what_depends_on_the_caller_is_executed_for_each"],
    ),
    Guard(
        "sharing: a batch waits for PostgreSQL",
        SHARING,
        [('                raise ServiceUnavailable("The database', '                log.debug("The database')],
        [AT_SHARING + "a_batch_is_executed_again_until_postgresql_is_back"],
    ),
    Guard(
        "sharing: what is of another moment is loaded anew",
        SHARING,
        [("        if not (step.goes_on and self._loaded):\n", "        if not self._loaded:\n")],
        [AT_SHARING + "parts_of_one_batch_share_what_was_loaded_unless_it_could_not_be"],
    ),
    Guard(
        "sharing: what could not be loaded is loaded anew",
        SHARING,
        [("        self._loaded = False  # what", "        self._loaded = self._loaded  # what")],
        [AT_SHARING + "parts_of_one_batch_share_what_was_loaded_unless_it_could_not_be"],
    ),
    Guard(
        "sharing: what waits for a member is bounded",
        PIPE,
        [("            self.forget(member)\n            return False\n", "            pass\n")],
        [AT_SHARING + "what_waits_for_a_member_is_bounded"],
    ),
    Guard(
        "sharing: who is set back begins where its buffer began",
        PIPE,
        [("            member.position = mine[0].start\n", "")],
        [AT_SHARING + "a_slow_reader_is_set_back_and_loses_nothing"],
    ),
    Guard(
        "socket: a client that takes nothing is given up",
        PIPE,
        [
            (
                "elif self._loop.time() - moved >= self._stall:\n                raise Stuck\n",
                "elif self._loop.time() - moved >= self._stall:\n                continue\n",
            )
        ],
        [AT_SOCKET + "a_reader_that_stops_reading_is_1013_and_holds_its_source_back"],
    ),
    Guard(
        "socket: who takes nothing is gone within a minute",
        "app/web/wire.py",
        [("LINGER: Final = 15.0\n", "LINGER: Final = 60.0\n")],
        [AT_SOCKET + "who_stops_reading_is_gone_within_the_promised_minute"],
    ),
    Guard(
        "socket: who never comes back for the closing frame is dropped",
        "app/web/wire.py",
        [("        self.close_timer = self.loop.call_later(LINGER, self.transport.abort)\n", "")],
        [AT_SOCKET + "who_never_comes_back_is_dropped"],
    ),
    Guard(
        "streams: the last id wins over what is asked",
        "schema/subscriptions.py",
        [("cursor = context.last_event_id or (None if after is UNSET else after)", "cursor = after or None")],
        [AT_STREAMS + "a_client_that_comes_back_goes_on_after_the_last_id_whatever_it_asks"],
    ),
    Guard(
        "streams: what is not over does not end like what is",
        STREAMS,
        [("        whole = operation.done() and ending is None\n", "        whole = True\n")],
        [AT_STREAMS + "a_restart_cuts_the_stream_so_that_clients_resume"],
    ),
    Guard(
        "streams: they count among the connections of a key",
        "schema/http.py",
        [
            (
                "            if not await streams.held.admit(context.actor):\n",
                "            if await streams.held.admit(context.actor) is None:\n",
            )
        ],
        [AT_STREAMS + "streams_count_among_the_connections_of_a_key"],
    ),
    Guard(
        "streams: a client that takes nothing is cut off",
        STREAMS,
        [('            self.end(TRY_LATER, "Nothing was read', '            log.info("Nothing was read')],
        [AT_STREAMS + "a_reader_of_events_that_reads_nothing_is_cut"],
    ),
    Guard(
        "held: a dead key ends what it holds",
        HELD,
        [("if connection.actor is not None and connection.actor.key_id in dead:", "if connection.actor is None:")],
        [
            AT_STREAMS + "a_revoked_key_ends_its_streams_with_a_reason_and_others_stay",
            AT_SOCKET + "a_revoked_key_is_4403_and_others_stay",
        ],
    ),
    Guard(
        "watching: a device's change that nobody rang is found by looking",
        "app/domain/device_feed.py",
        [("await listener.heard(LOOK_EVERY)", "await listener.heard()")],
        [AT_WATCHING + "devices_come_as_they_are_and_then_as_they_change"],
    ),
    Guard(
        "watching: a delivery's move that nobody rang is found by looking",
        "app/domain/delivery_feed.py",
        [("if heard.missed or loop.time() - looked_at >= LOOK_EVERY:", "if heard.missed:")],
        [AT_WATCHING + "a_delivery_is_followed_to_its_end"],
    ),
    Guard(
        "watching: what is rung twice is shown once",
        "app/domain/delivery_feed.py",
        [(" and shown.get(delivery.id) != stands:", ":")],
        [AT_WATCHING + "forged_rings_show_nobody_anything"],
    ),
    Guard(
        "watching: a ring of anything is no ids",
        "app/domain/delivery_feed.py",
        [("    if len(message) % 16 or len(message) > RING * 16:\n        return []\n", "")],
        [AT_WATCHING + "a_ring_holds_ids_and_nothing_else"],
    ),
    Guard(
        "places: what other processes hold counts",
        PLACES,
        [("      held = held + tonumber(count)\n", "      held = held + 0\n")],
        [
            AT_PLACES + "processes_share_the_places_and_give_them_back",
            AT_HELD + "a_key_and_a_tenant_hold_so_many_in_all_processes_together",
        ],
    ),
    Guard(
        "places: a process that says nothing counts no more",
        PLACES,
        [("if not till or tonumber(till) < now then", "if not till then")],
        [AT_PLACES + "a_process_that_dies_gives_its_places_back_and_one_that_lives_keeps_them"],
    ),
    Guard(
        "places: what is held is said again",
        PLACES,
        [("                self._tell(redis, names[start : start + CHUNK])", "                pass")],
        [AT_PLACES + "a_redis_that_forgot_everything_knows_it_again_soon"],
    ),
    Guard(
        "places: who gives up waiting holds nothing",
        PLACES,
        [("            if not room:  # refused", "            if room:  # refused")],
        [AT_PLACES + "who_gives_up_waiting_holds_nothing"],
    ),
    Guard(
        "socket: one on which nothing runs is ended",
        "schema/socket.py",
        [("        elif self._loop.time() - self._busy_at >= self._limits.idle:", "        elif False:")],
        [AT_HELD + "a_socket_on_which_nothing_runs_is_ended_and_one_that_is_used_is_not"],
    ),
    Guard(
        "socket: what follows a mistake is not acted on",
        "schema/socket.py",
        [("            while not self._ending.done():  # what", "            while True:  # what")],
        [AT_SOCKET + "what_follows_a_mistake_is_not_acted_on"],
    ),
    # ── trouble ──────────────────────────────────────────────────────────────────────────────────────
    Guard(
        "trouble: a doubt is answered by the log",
        FEED,
        [
            (
                "            tail.learn(position, batch.events, batch.head)\n            if not batch.events:",
                "            if not batch.events:",
            )
        ],
        [AT_TROUBLE + "everybody_sees_everything_once_and_in_order"],
    ),
    Guard(
        "trouble: channels are left with their last listener",
        BROADCAST,
        [("        self._wanted.discard(group)\n", "")],
        [AT_TROUBLE + "a_server_has_three_connections_to_redis_and_channels_for_whom_it_has_listeners"],
    ),
    Guard(
        "trouble: a feed outlasts PostgreSQL",
        FEED,
        [
            (
                "        except ServiceUnavailable:\n            await asyncio.sleep(pause",
                "        except ZeroDivisionError:\n            await asyncio.sleep(pause",
            )
        ],
        [AT_LIVE + "whoever_follows_outlasts_a_postgresql_that_stops_at_once"],
    ),
    Guard(
        "trouble: who comes back goes on after its cursor",
        "schema/subscriptions.py",
        [("cursor = context.last_event_id or (None if after is UNSET else after)", "cursor = None")],
        [AT_LIVE + "whoever_follows_a_killed_server_goes_on_at_another"],
    ),
    Guard(
        "trouble: a restart says so",
        "app/web/wire.py",
        [
            (
                "            super().shutdown()\n        self.transport.close()",
                "            pass\n        self.transport.close()",
            )
        ],
        [AT_LIVE + "whoever_follows_is_sent_elsewhere_by_a_server_that_restarts"],
    ),
    Guard(
        "trouble: a long poll does not hold up a restart",
        "schema/http.py",
        [("        context.stopping = scope.get(ENDING)\n", "")],
        [AT_QUERIES + "a_pull_is_answered_when_the_server_stops"],
    ),
    Guard(
        "trouble: who pulls waits no longer once the server stops",
        "app/domain/punch_feed.py",
        [("            limit.reschedule(asyncio", "            limit.when() or limit.reschedule(asyncio")],
        [AT_PULLS + "a_pull_waits_no_longer_once_the_server_stops"],
    ),
)
