"""What must hold when something breaks between an event and its receiver, and the tests that show it.

Each row is a fault, what must hold, and where that is tested. `test_faults.py` sees to it that every test named here
exists, and that each row has a guard, so a row cannot lose its proof unnoticed. Sizes are those of a quick run;
`bench/faults.py` has the long ones at full size.
"""

from __future__ import annotations

from dataclasses import dataclass

POOL, OUTBOUND, HERE = "tests/workers/test_pool.py", "tests/workers/test_outbound.py", "tests/workers/test_faults.py"
PROCESSES, JOURNEYS = "tests/journeys/test_webhook_faults.py", "tests/journeys/test_journeys.py"
DELIVERIES, REPLAYS = "tests/app/domain/test_deliveries.py", "tests/app/domain/test_replays.py"
WIRE, ADDRESSES = "tests/protocol/test_webhook.py", "tests/app/domain/test_addresses.py"
PLANS = "tests/app/domain/test_delivery_plans.py"


@dataclass(frozen=True, slots=True)
class Row:
    """One fault. A test is `file::test_name` without the prefix, or the file of a benchmark."""

    number: int
    fault: str
    holds: str
    tests: tuple[str, ...]


ROWS = (
    Row(
        1,
        "none; twenty tenants with five endpoints each",
        "every event reaches every endpoint once, and the stock verifiers accept each request",
        (
            f"{HERE}::every_event_of_twenty_tenants_reaches_each_of_their_endpoints_once",
            f"{POOL}::eight_workers_deliver_a_thousand_events_once_each",
        ),
    ),
    Row(
        2,
        "a random worker is killed every two seconds",
        "nothing is lost; what comes again has another attempt number; the rest goes on",
        (
            f"{PROCESSES}::workers_that_are_killed_one_after_the_other_lose_nothing",
            f"{POOL}::what_a_dead_worker_held_is_delivered_by_another",
            f"{JOURNEYS}::what_a_killed_worker_held_is_delivered_by_the_other",
        ),
    ),
    Row(
        3,
        "the server is killed around its commit, again and again",
        "what is delivered is what is committed, exactly",
        (
            f"{PROCESSES}::a_server_that_is_killed_around_its_commit_delivers_what_it_committed",
            f"{JOURNEYS}::nothing_is_lost_doubled_or_mixed_up",
        ),
    ),
    Row(
        4,
        "PostgreSQL is stopped at once, and comes back",
        "nothing is lost; workers go on by themselves",
        (
            f"{POOL}::a_database_that_restarts_in_the_middle_costs_no_delivery",
            f"{POOL}::results_wait_for_a_database_that_is_away",
        ),
    ),
    Row(
        5,
        "Redis is flushed, then away",
        "nothing is lost or doubled; the poll takes the bell's place",
        (
            f"{PROCESSES}::without_redis_the_clock_takes_the_place_of_the_bell",
            f"{POOL}::without_a_bell_the_clock_wakes_a_worker",
            f"{JOURNEYS}::without_redis_everything_goes_on_and_no_terminal_notices",
        ),
    ),
    Row(
        6,
        "all workers are restarted one after the other",
        "nothing is lost, nothing comes twice",
        (
            f"{PROCESSES}::a_rolling_restart_of_the_workers_sends_nothing_twice",
            f"{POOL}::a_worker_that_is_told_to_stop_finishes_what_is_under_way_and_nothing_comes_twice",
            f"{POOL}::a_worker_process_drains_on_sigterm_and_exits_zero",
        ),
    ),
    Row(
        7,
        "a worker is frozen beyond its leases, and comes back",
        "it changes no row",
        (
            f"{PROCESSES}::a_worker_that_was_frozen_changes_nothing_when_it_comes_back",
            f"{POOL}::a_frozen_worker_that_comes_back_posts_nothing",
            f"{DELIVERIES}::a_worker_that_lost_its_lease_changes_nothing",
        ),
    ),
    Row(
        8,
        "of the answers three in ten are errors, one in ten is a reset, one in twenty never comes",
        "all end delivered or exhausted, on the schedule, after ten attempts when exhausted",
        (
            f"{HERE}::whatever_a_bad_receiver_does_everything_ends_and_each_attempt_is_told",
            f"{POOL}::each_failure_waits_as_long_as_the_schedule_says",
            f"{WIRE}::the_schedule_makes_ten_attempts_and_ends",
            f"{WIRE}::jitter_moves_a_wait_by_a_tenth_at_most_and_the_first_only_later",
        ),
    ),
    Row(
        9,
        "fifty endpoints of one tenant hang, with a backlog",
        "what other tenants are owed goes out as before",
        (
            f"{HERE}::fifty_endpoints_that_hang_do_not_hold_up_another_tenant",
            f"{POOL}::a_tenant_whose_receivers_hang_leaves_other_tenants_their_slots",
            f"{POOL}::posts_that_hung_and_end_together_are_no_reason_to_claim_ahead",
            f"{PROCESSES}::over_all_workers_an_endpoint_has_no_more_posts_under_way_than_it_may",
            f"{DELIVERIES}::a_tenant_with_a_backlog_does_not_keep_another_waiting",
        ),
    ),
    Row(
        10,
        "an answer drips a byte at a time, or is a gigabyte",
        "the drip is cut at the deadline; 64 KiB are read and a 2xx succeeds",
        (
            f"{OUTBOUND}::a_drip_is_cut_at_the_deadline",
            f"{OUTBOUND}::a_drip_of_headers_is_cut_at_the_deadline",
            f"{OUTBOUND}::of_a_gigabyte_sixty_four_kibibytes_are_read",
            f"{OUTBOUND}::a_compressed_bomb_is_kept_as_it_came",
        ),
    ),
    Row(
        11,
        "forty and more forbidden addresses, in every spelling, by name and by redirect",
        "no socket is made for any",
        (
            f"{OUTBOUND}::no_socket_is_made_for_a_forbidden_address_in_a_url",
            f"{OUTBOUND}::no_socket_is_made_for_a_name_that_leads_to_a_forbidden_address",
            f"{OUTBOUND}::one_forbidden_address_among_good_ones_spoils_the_name",
            f"{OUTBOUND}::a_name_that_changes_its_mind_lands_where_it_was_judged",
            f"{OUTBOUND}::the_socket_is_judged_even_when_the_name_was_not",
            f"{OUTBOUND}::a_redirect_is_not_followed",
        ),
    ),
    Row(
        12,
        "a secret is rotated under load",
        "every request verifies with the old or the new one, with both during the grace",
        (
            f"{HERE}::a_rotation_under_load_is_accepted_by_every_stock_verifier",
            "tests/frontend_examples/test_receivers.py::a_rotation_passes_a_receiver_that_knows_either_secret_or_both",
        ),
    ),
    Row(
        13,
        "an upload is sent ten times",
        "one event for each punch",
        (
            "tests/app/web/test_iclock.py::resends_and_parallel_duplicates_are_one_punch_and_one_event",
            f"{JOURNEYS}::terminals_that_send_everything_again_make_nothing_new",
        ),
    ),
    Row(
        14,
        "a period is replayed twice at once",
        "each replay sends it once, at its pace, and leaves the first deliveries as they are",
        (
            f"{REPLAYS}::two_replays_of_one_period_each_send_it_once",
            f"{REPLAYS}::a_replay_keeps_its_pace_and_waits_for_its_receiver",
        ),
    ),
    Row(
        15,
        "a million deliveries have ended, a hundred thousand are due",
        "claims stay quick: they read what they take",
        (
            "bench/claims.py",
            f"{PLANS}::whatever_has_ended_a_claim_reads_what_it_takes",
            f"{PLANS}::a_delivery_is_found_by_its_key_on_a_table_without_statistics",
        ),
    ),
    Row(
        16,
        "a worker's clock is ten minutes ahead",
        "it is noticed, requests are signed with the database's time, and nothing is due earlier",
        (f"{HERE}::a_worker_whose_clock_is_wrong_signs_with_the_time_of_the_database",),
    ),
    Row(
        17,
        "one quick receiver, and a backlog",
        "a thousand a second and more; from commit to receiver in milliseconds",
        ("bench/delivery.py", f"{POOL}::half_as_many_again_are_claimed_ahead_as_ended_of_late"),
    ),
    Row(
        18,
        "one tenant asks for another's endpoints, deliveries and replays",
        "none is found",
        (
            f"{POOL}::another_tenants_endpoint_never_receives",
            f"{DELIVERIES}::another_tenants_delivery_cannot_be_settled",
            f"{DELIVERIES}::only_the_tenants_that_are_named_are_loaded",
            "tests/schema/test_tenants.py::a_tenant_with_nothing_sees_nothing",
        ),
    ),
)
