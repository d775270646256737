"""The guards of webhook delivery: see tests/guards.py, which takes them away one by one."""

from __future__ import annotations

from tests.guards import AT_DELIVERIES, AT_POOL, DELIVERIES, ISOLATION, LOG, Guard

POOL, DELIVERY, SWEEPER = "workers/pool.py", "workers/delivery.py", "workers/sweeper.py"
AT_SWEEPER, AT_DELIVERY = "tests/workers/test_sweeper.py::test_", "tests/workers/test_delivery.py::test_"

GUARDS: tuple[Guard, ...] = (
    Guard(
        "claim: skip what another worker is taking",
        ISOLATION,
        [
            (
                "                ORDER BY d.due_at LIMIT claim_deliveries.n FOR UPDATE SKIP LOCKED\n",
                "                ORDER BY d.due_at LIMIT claim_deliveries.n\n",
            )
        ],
        [AT_DELIVERIES + "a_claim_does_not_wait_for_another"],
    ),
    Guard(
        "claim: an endpoint gets its share",
        ISOLATION,
        [
            (
                "(ARRAY (SELECT placed.address FROM placed WHERE placed.place <= most))",
                "(ARRAY (SELECT placed.address FROM placed))",
            )
        ],
        [
            AT_DELIVERIES + "no_endpoint_gets_more_than_its_share_of_a_claim",
            AT_POOL + "an_endpoint_that_hangs_leaves_the_others_half_of_the_slots",
        ],
    ),
    Guard(
        "claim: a full endpoint hides no other",
        ISOLATION,
        [
            (
                "                  AND d.endpoint_id <> ALL (ARRAY (SELECT held.endpoint_id FROM held WHERE held.n >= most))\n",
                "",
            )
        ],
        [AT_DELIVERIES + "an_endpoint_that_has_its_share_does_not_hide_what_others_are_owed"],
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
        "lease fence: only the holder disables an endpoint",
        DELIVERIES,
        [
            (
                "    JOIN webhook_deliveries d ON d.tenant_id = g.tenant_id AND d.id = g.id AND d.claim_token = g.token\n",
                "    JOIN webhook_deliveries d ON d.tenant_id = g.tenant_id AND d.id = g.id\n",
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
        [(" AND e.url = gone.url\n", "\n")],
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
                "            while jobs and len(self._posts) < self._concurrency and self._busy",
                "            while jobs and self._busy",
            ),
            (
                "        wanted = min(self._concurrency - held.total() + sum(soon.values()), CLAIM_BATCH)\n",
                "        wanted = CLAIM_BATCH\n",
            ),
        ],
        [AT_POOL + "no_more_posts_are_under_way_than_there_are_slots"],
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
                "                    await listener.heard()\n                    self._rung.set()\n",
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
)
