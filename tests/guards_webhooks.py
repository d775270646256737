"""The guards of webhook delivery: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import AT_DELIVERIES, AT_OUTBOUND, AT_POOL, DELIVERIES, ISOLATION, LOG, Guard

ENDPOINTS, AT_ENDPOINTS = "app/domain/endpoints.py", "tests/app/domain/test_endpoints.py::test_"
POOL, DELIVERY, SWEEPER = "workers/pool.py", "workers/delivery.py", "workers/sweeper.py"
REPLAYS, AT_REPLAYS = "app/domain/replays.py", "tests/app/domain/test_replays.py::test_"
CLAIMS = "app/migrations/versions/0022_caps_over_all_workers.py"
OUTBOUND, WIRE, AT_WIRE = "workers/outbound.py", "protocol/webhook.py", "tests/protocol/test_webhook.py::test_"
AT_FAULTS = "tests/workers/test_faults.py::test_"
AT_PROCESSES = "tests/journeys/test_webhook_faults.py::test_"
AT_SWEEPER, AT_DELIVERY = "tests/workers/test_sweeper.py::test_", "tests/workers/test_delivery.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "signatures: id, time and body",
        WIRE,
        [
            (
                '    signed = b".".join((msg_id.encode(), b"%d" % timestamp, body))\n',
                '    signed = msg_id.encode() + b"." + body\n',
            )
        ],
        [AT_FAULTS + "every_event_of_twenty_tenants_reaches_each_of_their_endpoints_once"],
    ),
    Guard(
        "signatures: both secrets during the grace",
        WIRE,
        [("timestamp, body) for each in secrets)", "timestamp, body) for each in secrets[:1])")],
        [AT_FAULTS + "a_rotation_under_load_is_accepted_by_every_stock_verifier"],
    ),
    Guard(
        "signatures: the single header with the oldest secret",
        WIRE,
        [("sign_legacy(secrets[-1], body)", "sign_legacy(secrets[:2][-1], body)")],
        [
            AT_WIRE + "after_two_rotations_three_secrets_sign_and_the_single_header_stays_with_the_oldest",
            AT_POOL + "after_two_rotations_all_three_secrets_verify_and_the_plain_header_keeps_the_oldest",
        ],
    ),
    Guard(
        "rotation: a secret keeps its own grace",
        ENDPOINTS,
        [("        endpoint.older_secret_sealed = endpoint.previous_secret_sealed\n", "")],
        [
            AT_ENDPOINTS + "a_second_rotation_leaves_the_first_secret_its_own_grace",
            AT_POOL + "after_two_rotations_all_three_secrets_verify_and_the_plain_header_keeps_the_oldest",
        ],
    ),
    Guard(
        "rotation: a third secret comes along to the worker",
        DELIVERIES,
        [
            (
                "       CASE WHEN e.older_secret_expires_at > now() THEN e.older_secret_sealed END,\n",
                "       NULL::bytea,\n",
            )
        ],
        [AT_DELIVERIES + "the_secret_before_that_comes_along_until_its_own_grace_ends"],
    ),
    Guard(
        "rotation: a third secret ends as well",
        DELIVERIES,
        [("CASE WHEN e.older_secret_expires_at > now() THEN e.older_secret_sealed END", "e.older_secret_sealed")],
        [AT_DELIVERIES + "the_secret_before_that_comes_along_until_its_own_grace_ends"],
    ),
    Guard(
        "rotation: without grace all older secrets end",
        ENDPOINTS,
        [
            (
                "    if not grace:\n        endpoint.older_secret_sealed",
                "    if False:\n        endpoint.older_secret_sealed",
            )
        ],
        [AT_ENDPOINTS + "a_rotation_without_grace_ends_every_older_secret"],
    ),
    Guard(
        "rotation: what has ended takes no place",
        ENDPOINTS,
        [
            (
                "    elif _later(endpoint.previous_secret_expires_at, at):\n",
                "    elif endpoint.previous_secret_expires_at:\n",
            )
        ],
        [AT_ENDPOINTS + "a_secret_whose_grace_has_ended_takes_no_place"],
    ),
    Guard(
        "replay: an unknown endpoint is named by its field",
        REPLAYS,
        [('        exc.path = ("input", "endpointId")\n', "")],
        ["tests/schema/test_mutations.py::test_what_is_not_found_is_named_by_its_field"],
    ),
    Guard(
        "people: an unknown device is named by its row",
        "app/domain/roster.py",
        [
            (
                "placements.want(session, tenant_id, changed, placed, paths)",
                "placements.want(session, tenant_id, changed, placed)",
            )
        ],
        ["tests/schema/test_placements.py::test_a_thousand_people_are_placed_in_one_call_or_nobody_is"],
    ),
    Guard(
        "schedule: it ends",
        WIRE,
        [("    if failures > len(delays):\n        return None\n", "    failures = min(failures, len(delays))\n")],
        [AT_WIRE + "the_schedule_makes_ten_attempts_and_ends"],
    ),
    Guard(
        "schedule: the first wait is not shortened",
        WIRE,
        [("(abs(share) if failures == 1 else share)", "share")],
        [AT_WIRE + "jitter_moves_a_wait_by_a_tenth_at_most_and_the_first_only_later"],
    ),
    Guard(
        "what is committed is owed",
        LOG,
        [("                WHERE e.deleted_at IS NULL AND e.status <> 'DISABLED'\n", "                WHERE false\n")],
        [AT_PROCESSES + "a_server_that_is_killed_around_its_commit_delivers_what_it_committed"],
    ),
    Guard(
        "deadline: for the whole of an attempt",
        OUTBOUND,
        [("asyncio.timeout(self.timeout.total_seconds())", "asyncio.timeout(None)")],
        [AT_OUTBOUND + "a_drip_is_cut_at_the_deadline"],
    ),
    Guard(
        "answers: no more is read than is wanted",
        OUTBOUND,
        [("                    if read >= MOST_READ:\n", "                    if False:\n")],
        [AT_OUTBOUND + "of_a_gigabyte_sixty_four_kibibytes_are_read"],
    ),
    Guard(
        "address guard: every address of a name",
        OUTBOUND,
        [("if not all(self._guard.allows(address)", "if not any(self._guard.allows(address)")],
        [AT_OUTBOUND + "one_forbidden_address_among_good_ones_spoils_the_name"],
    ),
    Guard(
        "address guard: the socket once more",
        OUTBOUND,
        [("        if not self._guard.allows(str(address[0])):\n", "        if False:\n")],
        [AT_OUTBOUND + "the_socket_is_judged_even_when_the_name_was_not"],
    ),
    Guard(
        "redirects are failures",
        OUTBOUND,
        [(" if trip.status is not None and 300 <= trip.status < 400 else None\n", " if False else None\n")],
        [AT_OUTBOUND + "a_redirect_is_not_followed"],
    ),
    Guard(
        "tenant policy: a worker sees the tenants it names",
        ISOLATION,
        [('    "pc_worker": MANY,\n', '    "pc_worker": ALL,\n')],
        [
            AT_DELIVERIES + "another_tenants_delivery_cannot_be_settled",
            AT_DELIVERIES + "only_the_tenants_that_are_named_are_loaded",
        ],
    ),
    Guard(
        "claimed ahead: not for posts that hung",
        POOL,
        [("        if result.duration_ms <= QUICK_MS:\n", "        if True:\n")],
        [AT_POOL + "posts_that_hung_and_end_together_are_no_reason_to_claim_ahead"],
    ),
    Guard(
        "slots: what waits for its own takes none from others",
        POOL,
        [("            places[tenant_id] += min(n, self._caps.endpoint)\n", "            places[tenant_id] += n\n")],
        [AT_POOL + "half_as_many_again_are_claimed_ahead_as_ended_of_late"],
    ),
    Guard(
        "claimed ahead: as many as ended",
        POOL,
        [("taken + soon.total(), CLAIM_BATCH)", "taken, CLAIM_BATCH)")],
        [AT_POOL + "half_as_many_again_are_claimed_ahead_as_ended_of_late"],
    ),
    Guard(
        "claimed ahead: and as many as end meanwhile",
        POOL,
        [("{lane: n + n // 2 for lane", "{lane: n for lane")],
        [AT_POOL + "half_as_many_again_are_claimed_ahead_as_ended_of_late"],
    ),
    Guard(
        "claim: skip what another worker is taking",
        CLAIMS,
        [
            (
                "                    ORDER BY d.due_at LIMIT q.n FOR UPDATE SKIP LOCKED\n",
                "                    ORDER BY d.due_at LIMIT q.n\n",
            )
        ],
        [AT_DELIVERIES + "a_claim_does_not_wait_for_another"],
    ),
    Guard(
        "claim: an endpoint gets its share",
        CLAIMS,
        [("ELSE 1 END, most - coalesce(mine.n, 0),", "ELSE 1 END,")],
        [
            AT_DELIVERIES + "no_endpoint_gets_more_than_its_share_of_a_claim",
            AT_DELIVERIES + "an_endpoint_that_has_its_share_does_not_hide_what_others_are_owed",
        ],
    ),
    Guard(
        "claim: a tenant gets its share",
        CLAIMS,
        [("WHERE t.turn <= most_of_tenant\n", "WHERE true\n")],
        [AT_DELIVERIES + "no_tenant_gets_more_than_its_share_of_a_claim"],
    ),
    Guard(
        "caps: what others hold counts",
        CLAIMS,
        [("AND d.claim_token <> ALL (own)\n", "AND false\n")],
        [
            AT_DELIVERIES + "what_others_hold_counts_against_an_endpoint",
            AT_DELIVERIES + "what_others_hold_counts_against_a_tenant",
            AT_DELIVERIES + "two_that_claim_at_once_stay_within_the_caps_together",
            AT_PROCESSES + "over_all_workers_an_endpoint_has_no_more_posts_under_way_than_it_may",
        ],
    ),
    Guard(
        "caps: a tenant that has its own takes no turns",
        CLAIMS,
        [("                  AND (t.reached <= t.of_tenant OR most_of_tenant <= t.of_tenant)\n", "")],
        [AT_DELIVERIES + "what_others_hold_counts_against_a_tenant"],
    ),
    Guard(
        "caps: one after the other",
        CLAIMS,
        [("                PERFORM pg_advisory_xact_lock(k.key) FROM (\n", "                PERFORM k.key FROM (\n")],
        [AT_DELIVERIES + "two_that_claim_at_once_stay_within_the_caps_together"],
    ),
    Guard(
        "caps: a dead worker has nothing under way",
        CLAIMS,
        [("WHERE d.status = 'SENDING' AND d.lease_until > now() + lease / 2\n", "WHERE d.status = 'SENDING'\n")],
        [AT_DELIVERIES + "what_was_not_renewed_for_half_a_lease_does_not_count"],
    ),
    Guard(
        "caps: what is under way here counts, and what has ended does not",
        POOL,
        [("return wanted, Load(busy, held,", "return wanted, Load(busy, {},")],
        [AT_PROCESSES + "over_all_workers_an_endpoint_has_no_more_posts_under_way_than_it_may"],
    ),
    Guard(
        "claim: tenants take turns",
        CLAIMS,
        [("ORDER BY t.turn, t.due_at LIMIT rest", "ORDER BY t.due_at LIMIT rest")],
        [AT_DELIVERIES + "a_tenant_with_a_backlog_does_not_keep_another_waiting"],
    ),
    Guard(
        "claim: endpoints take turns",
        CLAIMS,
        [("ORDER BY w.held + w.place, w.due_at", "ORDER BY w.due_at")],
        [AT_DELIVERIES + "endpoints_of_a_tenant_take_turns"],
    ),
    Guard(
        "claim: a backlog hides nobody",
        CLAIMS,
        [("            IF seen = 4 * n THEN\n", "            IF false THEN\n")],
        [AT_DELIVERIES + "a_tenant_with_a_backlog_does_not_keep_another_waiting"],
    ),
    Guard(
        "breaker: an endpoint that fails is left alone",
        CLAIMS,
        [
            ("                WHERE e.breaker_until IS NULL OR e.breaker_until <= now()\n", ""),
            ("WHERE e.id = ANY (probing) AND e.breaker_until <= now()\n", "WHERE e.id = ANY (probing)\n"),
        ],
        [AT_DELIVERIES + "after_five_failures_in_a_row_an_endpoint_is_left_alone_and_nothing_is_spent"],
    ),
    Guard(
        "breaker: more failures than successes open it",
        DELIVERIES,
        [(" OR h.failures > 0 AND bit_count(h.recent::bit(20)) > 10 THEN", " THEN")],
        [
            AT_DELIVERIES + "an_endpoint_that_fails_more_than_half_the_time_is_left_alone",
            AT_DELIVERIES + "a_success_after_the_breaker_begins_a_new_count",
        ],
    ),
    Guard(
        "breaker: it counts the last twenty",
        DELIVERIES,
        [("e.recent::bigint << t.n)", "e.recent::bigint << 0)")],
        [AT_DELIVERIES + "what_was_long_ago_does_not_count_against_an_endpoint"],
    ),
    Guard(
        "breaker: one delivery tries it again",
        CLAIMS,
        [("CASE WHEN e.breaker_until IS NULL THEN rest ELSE 1 END", "rest")],
        [AT_DELIVERIES + "after_a_while_one_delivery_tries_it_again_and_only_one"],
    ),
    Guard(
        "breaker: it closes again while somebody tries",
        CLAIMS,
        [("SET breaker_until = now() + probe\n", "SET breaker_until = e.breaker_until\n")],
        [AT_DELIVERIES + "after_a_while_one_delivery_tries_it_again_and_only_one"],
    ),
    Guard(
        "breaker: what somebody waits for goes through",
        DELIVERIES,
        [("due_at = now(), urgent = true,", "due_at = now(),")],
        [AT_DELIVERIES + "a_retry_by_hand_does_not_wait_for_the_breaker"],
    ),
    Guard(
        "breaker: it does not outlast the schedule",
        DELIVERIES,
        [("now() + least($8, h.retry_in)", "now() + $8")],
        [AT_DELIVERIES + "a_breaker_does_not_outlast_the_schedule"],
    ),
    Guard(
        "health: a success ends a row of failures",
        DELIVERIES,
        [("CASE WHEN f.well THEN 0 ELSE e.failures END + f.failures", "e.failures + f.failures")],
        [
            AT_DELIVERIES + "a_success_ends_a_row_of_failures",
            AT_DELIVERIES + "a_success_lets_everything_through_again",
        ],
    ),
    Guard(
        "health: five days of nothing but failure",
        DELIVERIES,
        [("WHEN NOT f.well AND e.failing_since <= now() - $9::interval THEN", "WHEN $9::interval IS NULL THEN")],
        [AT_DELIVERIES + "five_days_of_nothing_but_failure_disable_an_endpoint"],
    ),
    Guard(
        "health: only the holder's results count",
        DELIVERIES,
        [
            (
                "    JOIN webhook_deliveries d ON d.tenant_id = r.tenant_id AND d.id = r.id AND d.claim_token = r.token\n), good",
                "    JOIN webhook_deliveries d ON d.tenant_id = r.tenant_id AND d.id = r.id\n), good",
            )
        ],
        [
            AT_DELIVERIES + "a_stale_result_says_nothing_about_its_endpoint",
            AT_DELIVERIES + "a_worker_that_lost_its_lease_changes_nothing",
        ],
    ),
    Guard(
        "a disabled endpoint is announced",
        POOL,
        [("outbox.announce_disabled(connection, settled.disabled)", "outbox.announce_disabled(connection, [])")],
        [AT_POOL + "the_tenants_other_endpoints_and_its_feed_hear_of_a_disabled_one"],
    ),
    Guard(
        "slots: a tenant gets its share",
        POOL,
        [
            (
                "            max(1, round(concurrency * settings.webhook_tenant_share)),\n",
                "            concurrency,\n",
            ),
        ],
        [AT_POOL + "a_tenant_whose_receivers_hang_leaves_other_tenants_their_slots"],
    ),
    Guard(
        "lease fence: only the holder loads",
        DELIVERIES,
        [
            (
                "    JOIN webhook_deliveries d ON d.tenant_id = c.tenant_id AND d.id = c.id AND d.claim_token = c.token\n)\nSELECT d.tenant_id, d.id, d.claim_token",
                "    JOIN webhook_deliveries d ON d.tenant_id = c.tenant_id AND d.id = c.id\n)\nSELECT d.tenant_id, d.id, d.claim_token",
            )
        ],
        [AT_DELIVERIES + "a_worker_that_lost_its_lease_changes_nothing"],
    ),
    Guard(
        "parking: under the endpoint's lock",
        DELIVERIES,
        [("    ORDER BY e.tenant_id, e.id FOR SHARE\n", "    ORDER BY e.tenant_id, e.id\n")],
        [AT_DELIVERIES + "a_resume_beside_the_parking_leaves_nothing_parked"],
    ),
    Guard(
        "parking: by the worker, not at the insert",
        LOG,
        [
            (
                "SELECT l.tenant_id, uuid7(), e.id, l.position, l.id, l.type, 'PENDING', 0, now(), now()\n",
                "SELECT l.tenant_id, uuid7(), e.id, l.position, l.id, l.type, 'PENDING', 0, CASE WHEN e.status = 'ENABLED' THEN now() END, now()\n",
            )
        ],
        [AT_DELIVERIES + "a_resume_beside_the_parking_leaves_nothing_parked"],
    ),
    Guard(
        "gone: an endpoint that moved stays",
        DELIVERIES,
        [("WHEN e.url = ANY (f.gone) THEN", "WHEN cardinality(f.gone) > 0 THEN")],
        [AT_DELIVERIES + "a_gone_url_does_not_disable_an_endpoint_that_has_another_one_by_now"],
    ),
    Guard(
        "renewing waits for nobody",
        DELIVERIES,
        [
            (
                "    FOR NO KEY UPDATE OF d SKIP LOCKED\n)\nUPDATE webhook_deliveries d SET lease_until",
                "    FOR NO KEY UPDATE OF d\n)\nUPDATE webhook_deliveries d SET lease_until",
            )
        ],
        [AT_DELIVERIES + "renewing_does_not_wait_for_who_is_settling"],
    ),
    Guard(
        "leases are renewed",
        POOL,
        [('                "renew": sweeper.every(RENEW_EVERY, self._renew, "renew"),\n', "")],
        [AT_POOL + "a_lease_lasts_as_long_as_its_worker_lives"],
    ),
    Guard(
        "dead leases are taken back",
        POOL,
        [('                "reap": sweeper.every(sweeper.REAP_EVERY, partial(sweeper.reap, self._db), "reap"),\n', "")],
        [AT_POOL + "what_a_dead_worker_held_is_delivered_by_another"],
    ),
    Guard(
        "a worker that stood still does not post",
        POOL,
        [("                if time.monotonic() > self._begin_by[job.claim]:\n", "                if False:\n")],
        [AT_POOL + "a_frozen_worker_that_comes_back_posts_nothing"],
    ),
    Guard(
        "drain: what was not begun is given back",
        POOL,
        [("            await self._release(unbegun)\n", "            pass\n")],
        [AT_POOL + "what_was_claimed_and_not_begun_is_given_back_uncounted"],
    ),
    Guard(
        "drain: what is under way is finished",
        POOL,
        [
            (
                "            await asyncio.wait(self._posts, timeout=FINISH_WITHIN)\n",
                "            await asyncio.sleep(0)\n",
            )
        ],
        [AT_POOL + "a_worker_that_is_told_to_stop_finishes_what_is_under_way_and_nothing_comes_twice"],
    ),
    Guard(
        "drain: results are written down",
        POOL,
        [("                await self._all_settled.wait()\n", "                pass\n")],
        [AT_POOL + "a_worker_that_is_told_to_stop_finishes_what_is_under_way_and_nothing_comes_twice"],
    ),
    Guard(
        "slots: no more posts than there are",
        POOL,
        [
            (
                "            while jobs and len(self._posts) < self._concurrency and self._may_begin(lane):\n",
                "            while jobs and self._may_begin(lane):\n",
            ),
            (
                "        wanted = min(self._concurrency - taken + soon.total(), CLAIM_BATCH)\n",
                "        wanted = CLAIM_BATCH\n",
            ),
        ],
        [AT_POOL + "no_more_posts_are_under_way_than_there_are_slots"],
    ),
    Guard(
        "claimed ahead: nothing for an endpoint that begins to fail",
        POOL,
        [("        if self._failing[lane] >= self._indulgence.failures:\n", "        if False:\n")],
        [AT_POOL + "what_was_claimed_ahead_for_an_endpoint_that_begins_to_fail_is_given_back_uncounted"],
    ),
    Guard(
        "clocks: requests are signed with the database's time",
        POOL,
        [("        now = local_time() - (self._ahead or timedelta(0))\n", "        now = local_time()\n")],
        [AT_FAULTS + "a_worker_whose_clock_is_wrong_signs_with_the_time_of_the_database"],
    ),
    Guard(
        "plans: a worker looks rows up by their keys",
        "app/database.py",
        [("{self._limits}{_PLANS.get(purpose, '')}", "{self._limits}")],
        [
            "tests/app/domain/test_delivery_plans.py::test_a_delivery_is_found_by_its_key_on_a_table_without_statistics",
        ],
    ),
    Guard(
        "a result that the database refuses is set aside",
        POOL,
        [
            (
                "            if len(results) > 1:\n                for result in results:\n                    await self._settle([result])\n                return\n",
                "",
            )
        ],
        [AT_POOL + "a_result_that_the_database_refuses_holds_up_no_other"],
    ),
    Guard(
        "results wait for the database",
        POOL,
        [
            (
                '            except ServiceUnavailable:\n                self._seen(away=True)\n                failures += 1\n            except Exception:\n                log.exception("webhook_settle_failed"',
                '            except ServiceUnavailable:\n                self._results.clear()\n            except Exception:\n                log.exception("webhook_settle_failed"',
            )
        ],
        [AT_POOL + "results_wait_for_a_database_that_is_away"],
    ),
    Guard(
        "one delivery's trouble is its own",
        DELIVERY,
        [("    except Exception:\n", "    except ZeroDivisionError:\n")],
        [AT_POOL + "a_secret_that_does_not_open_spoils_its_own_deliveries_only"],
    ),
    Guard(
        "the bell wakes a worker",
        POOL,
        [
            (
                "                    await listener.heard()\n                    self._wake()\n",
                "                    await listener.heard()\n",
            )
        ],
        [AT_POOL + "a_worker_is_woken_by_the_bell"],
    ),
    Guard(
        "the clock wakes a worker",
        POOL,
        [("        return POLL if due is None else", "        return 3600 if due is None else")],
        [AT_POOL + "without_a_bell_the_clock_wakes_a_worker"],
    ),
    Guard(
        "what a receiver says is made fit for the database",
        DELIVERY,
        [('.replace("\\x00", "\\ufffd")', "")],
        [AT_DELIVERY + "an_answer_is_kept_as_text_that_the_database_can_hold"],
    ),
    Guard(
        "only attempts that were made spend the schedule",
        DELIVERY,
        [("webhook.next_attempt_in(job.failures + 1,", "webhook.next_attempt_in(job.attempt,")],
        [AT_DELIVERY + "the_wait_grows_with_the_failures_and_the_last_one_exhausts"],
    ),
    Guard(
        "secret stays out of the lines",
        DELIVERY,
        [
            (
                "        event_type=job.event_type,\n        attempt=job.attempt,\n        outcome",
                "        event_type=job.event_type,\n        url=job.url,\n        attempt=job.attempt,\n        outcome",
            )
        ],
        [AT_POOL + "each_attempt_is_one_line_with_its_ids_and_no_secret"],
    ),
    Guard(
        "replay: one worker at a time deals it out",
        REPLAYS,
        [(" FOR NO KEY UPDATE OF r SKIP LOCKED\n", "\n")],
        [AT_REPLAYS + "a_replay_that_another_worker_holds_is_left_to_it"],
    ),
    Guard(
        "replay: a rate that is kept",
        REPLAYS,
        [('min(rate * min(replay["waited"], 2.0), rate * AHEAD - still_open)', "1e6")],
        [AT_REPLAYS + "a_replay_keeps_its_pace_and_waits_for_its_receiver"],
    ),
    Guard(
        "replay: only what was not delivered",
        REPLAYS,
        [("  AND (NOT $7 OR NOT EXISTS (\n", "  AND ($7 IS NOT NULL OR NOT EXISTS (\n")],
        [AT_REPLAYS + "only_what_was_not_delivered_is_sent_again"],
    ),
    Guard(
        "replay: ten at a time",
        REPLAYS,
        [("    if running >= MOST:\n", "    if False:\n")],
        [AT_REPLAYS + "a_tenant_runs_ten_replays_at_a_time"],
    ),
    Guard(
        "replay: nothing for an endpoint that is gone",
        REPLAYS,
        [('replay["gone"] or replay["endpoint_status"] == EndpointStatus.DISABLED', "False")],
        [AT_REPLAYS + "a_replay_to_an_endpoint_that_is_gone_is_cancelled"],
    ),
)
