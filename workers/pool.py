"""A worker: so many slots, filled from the database, woken by the bell or the clock.

The database is the queue. One loop claims what is due, as many as there are free slots or will be in a moment; each
claim becomes a task that posts, with no connection and no transaction held meanwhile; one loop writes the results
down, many at a time. What is under way has its lease renewed, and what a dead worker held is taken back by any other.

When PostgreSQL goes away, results wait in memory and nothing new is claimed. They are written once it is back, whether
or not their leases lasted: the token says if they still count. What was lost with the process is sent again.

Any number of workers may run, none is special. Which deliveries a worker takes is decided in `claim_deliveries`, by
what `_room` tells it and by what others hold; here, only that no endpoint and no tenant has more than its share of the
slots, so that those which hang leave the others the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, islice
from typing import Final
from uuid import UUID

import asyncpg
import structlog
from prometheus_client import Counter as CounterMetric
from prometheus_client import Gauge, Histogram, start_http_server

from app import ids, telemetry
from app.broadcast import Bell, BellStopped
from app.database import CONFLICTS, Database
from app.domain import deliveries, delivery_feed, outbox
from app.domain.addresses import AddressGuard
from app.domain.deliveries import Caps, Claim, DeliveryStatus, Disabled, Job, Lane, Load, Patience, Result
from app.domain.events import Cursors, Logged
from app.domain.outbox import DELIVERIES
from app.errors import ServiceUnavailable
from app.settings import Settings
from app.vault import Vault
from workers import delivery, sweeper
from workers.outbound import Outbound

log = structlog.get_logger(__name__)

CLAIM_BATCH: Final = 100
SETTLE_BATCH: Final = 200
#: Results gather for so long before they are written down.
SETTLE_WAIT: Final = 0.02
#: While there is more to do than slots: long enough for many to come free, so that a claim is worth its cost.
BUSY_WAIT: Final = 0.02
#: The same when the bell rings: something is due that may go before all that waits.
NEWS_WAIT: Final = 0.005
#: A post that took longer says nothing of how many will end until the next claim: those that hang end all at once.
QUICK_MS: Final = 250
#: After a claim that found nothing, because the bell rings for events that nobody is owed too.
EMPTY_WAIT: Final = 0.02
#: When what is due may not be taken: its endpoint has all the slots it gets, or another worker is just taking it.
BLOCKED_WAIT: Final = 0.05
#: The net under the bell.
POLL: Final = 1.0
RENEW_EVERY: Final = timedelta(seconds=5)
SLOTS_EVERY: Final = timedelta(seconds=1)
LONGEST_PAUSE: Final = 2.0
CLOCK_EVERY: Final = timedelta(seconds=10)
#: Less is not told from the time that a question takes; more is said.
CLOCKS_AGREE: Final = timedelta(seconds=1)
CLOCKS_DIFFER: Final = timedelta(seconds=30)
#: A drain: what is under way gets so long, and its results so long to be written down.
FINISH_WITHIN: Final = 12.0
SETTLE_WITHIN: Final = 2.0

ATTEMPTS = CounterMetric(
    "punchconnect_webhook_attempts", "Attempts by outcome.", ["outcome"], registry=telemetry.REGISTRY
)
CLAIM_SECONDS = Histogram("punchconnect_webhook_claim_seconds", "One claim.", registry=telemetry.REGISTRY)
SETTLE_SECONDS = Histogram("punchconnect_webhook_settle_seconds", "One settled batch.", registry=telemetry.REGISTRY)
TENANT_SLOTS = Gauge(
    "punchconnect_webhook_slots", "Posts under way for a tenant that has some.", ["tenant"], registry=telemetry.REGISTRY
)
CLOCK_AHEAD = Gauge(
    "punchconnect_webhook_clock_ahead_seconds",
    "How far this worker's clock is ahead of the database's.",
    registry=telemetry.REGISTRY,
)
IN_FLIGHT = Gauge("punchconnect_webhook_in_flight", "Posts under way.", registry=telemetry.REGISTRY)


class Worker:
    """Delivers until it is told to stop. Owns none of what it is given."""

    def __init__(
        self,
        db: Database,
        door: Outbound,
        vault: Vault,
        settings: Settings,
        bell: Bell | None = None,
        *,
        concurrency: int = 50,
    ) -> None:
        self._db, self._door, self._vault, self._bell = db, door, vault, bell
        self._cursors = Cursors(vault.cursor_key)
        self._delays = settings.retry_delays
        self._lease = timedelta(seconds=settings.webhook_lease_seconds)
        #: How long after a claim or a renewal a post may begin: it then ends, or is renewed, within the lease.
        self._patience = settings.webhook_lease_seconds / 2
        self._concurrency = concurrency
        self._device_delay = timedelta(seconds=settings.device_delay_seconds)
        self._keep = timedelta(days=settings.webhook_keep_days)
        self._keep_commands = timedelta(days=settings.command_keep_days)
        self._replay_rate = settings.webhook_replay_rate
        self._caps = Caps(
            max(1, round(concurrency * settings.webhook_endpoint_share)),
            max(1, round(concurrency * settings.webhook_tenant_share)),
            settings.webhook_endpoint_in_flight,
            settings.webhook_tenant_in_flight,
        )
        days = settings.webhook_disable_after_days
        self._indulgence = Patience(
            settings.webhook_breaker_failures,
            timedelta(seconds=settings.webhook_breaker_seconds),
            timedelta(days=days) if days else None,
        )
        self._waiting: dict[Lane, deque[Job]] = {}  # by endpoint, claimed and not begun
        self._posts: dict[asyncio.Task[None], Job] = {}
        self._busy: Counter[Lane] = Counter()  # posts under way, by endpoint
        self._busy_tenants: Counter[UUID] = Counter()  # the same, by tenant
        self._ended: Counter[Lane] = Counter()  # posts that ended since the last claim, by endpoint
        self._failing: Counter[Lane] = Counter()  # failures in a row, by endpoint
        self._shut: dict[Lane, Claim] = {}  # the same that the database does not know of before this is written down
        self._unwanted: list[Claim] = []  # claimed for an endpoint that turned out to fail; to be given back
        self._begin_by: dict[Claim, float] = {}  # of all that waits or is posted: later, its lease might run out
        self._results: dict[Claim, Result] = {}  # oldest first; not written down yet
        self._has_results = asyncio.Event()
        self._all_settled = asyncio.Event()
        self._all_settled.set()
        self._rung = asyncio.Event()  # a look at the database is worth while
        self._news = asyncio.Event()  # and for more than a slot that came free
        #: Slots are what is missing, all or those of an endpoint, so that a post that ends is worth a look.
        self._short = False
        self._away = False
        #: Our clock beside the database's; unknown before the first look.
        self._ahead: timedelta | None = None

    async def run(self, stop: asyncio.Event) -> None:
        """Deliver until `stop` is set; then finish what is under way, give back the rest and return."""
        helpers = [
            asyncio.create_task(work, name=f"worker-{name}")
            for name, work in {
                "settle": self._settle_always(),
                "renew": sweeper.every(RENEW_EVERY, self._renew, "renew"),
                "reap": sweeper.every(sweeper.REAP_EVERY, partial(sweeper.reap, self._db), "reap"),
                "expire": sweeper.every(sweeper.REAP_EVERY, partial(sweeper.expire, self._db, self._ring), "expire"),
                "miss": sweeper.every(
                    sweeper.MISS_EVERY, partial(sweeper.miss, self._db, self._device_delay, self._ring), "miss"
                ),
                "sweep": sweeper.every(sweeper.SWEEP_EVERY, partial(sweeper.sweep, self._db), "sweep"),
                "forget": sweeper.every(sweeper.SWEEP_EVERY, partial(sweeper.forget, self._db, self._keep), "forget"),
                "forget_commands": sweeper.every(
                    sweeper.SWEEP_EVERY,
                    partial(sweeper.forget_commands, self._db, self._keep_commands),
                    "forget_commands",
                ),
                "replay": sweeper.every(
                    sweeper.REPLAY_EVERY,
                    partial(sweeper.replay, self._db, self._replay_rate, self._wake),
                    "replay",
                ),
                "clock": sweeper.every(CLOCK_EVERY, self._compare_clocks, "clock"),
                "listen": self._listen(),
                "slots": sweeper.every(SLOTS_EVERY, self._show_slots, "slots"),
                "stop": self._wake_on(stop),
            }.items()
        ]
        log.info("worker_started", concurrency=self._concurrency)
        try:
            await self._claim_until(stop)
            await self._drain()
        finally:
            self._waiting.clear()
            await _cancel([*self._posts, *helpers])
            log.info("worker_stopped", unsettled=len(self._results))

    def _ring(self, batch: Sequence[Logged]) -> None:
        if self._bell is not None:
            outbox.ring(self._bell, self._vault.bus_key, batch)

    # Claiming.

    async def _claim_until(self, stop: asyncio.Event) -> None:
        failures = 0
        while not stop.is_set():
            self._rung.clear()
            self._news.clear()
            try:
                pause = await self._fill(stop)
                failures = 0
                self._seen(away=False)
            except ServiceUnavailable:
                self._seen(away=True)
                failures += 1
                pause = _back_off(failures)
            except Exception:
                log.exception("webhook_claim_failed")
                failures += 1
                pause = _back_off(failures)
            if pause and not stop.is_set():
                await _either(self._rung, pause)
                if self._short:
                    await asyncio.sleep(NEWS_WAIT)
                    await _either(self._news, BUSY_WAIT - NEWS_WAIT)

    async def _fill(self, stop: asyncio.Event) -> float:
        """Claim for the free slots and start posting. How long to rest before the next time, unless something rings."""
        if self._ahead is None:
            await self._compare_clocks()
        await self._give_back()
        wanted, load = self._room()
        self._short = wanted <= 0 or len(self._results) >= SETTLE_BATCH
        if self._short:
            return POLL
        begun = time.monotonic()
        claims = await self._claim(wanted, load)
        if claims:
            await self._load(claims, begun)
        if not stop.is_set():
            self._begin()
        if len(claims) == wanted or self._crowded():
            self._short = True
            return BLOCKED_WAIT
        if not claims:
            await asyncio.sleep(EMPTY_WAIT)
        return 0 if self._rung.is_set() else await self._until_due(at_least=0 if claims else BLOCKED_WAIT)

    async def _until_due(self, at_least: float) -> float:
        async with self._db.across("work") as connection:
            due = await deliveries.next_due(connection)
        return POLL if due is None else min(POLL, max(at_least, due.total_seconds()))

    async def _compare_clocks(self) -> None:
        """A receiver refuses what was signed five minutes ago, or in the future: so all workers sign with one clock."""
        async with self._db.across("work") as connection:
            begun = time.monotonic()
            theirs = await deliveries.clock(connection)
            spent = timedelta(seconds=time.monotonic() - begun)
            ours = local_time()
        ahead = ours - spent / 2 - theirs
        CLOCK_AHEAD.set(ahead.total_seconds())
        known, self._ahead = self._ahead, ahead if abs(ahead) > max(spent, CLOCKS_AGREE) else timedelta(0)
        if abs(ahead) > CLOCKS_DIFFER and (known is None or abs(known) <= CLOCKS_DIFFER):
            log.warning("clock_differs", ahead_seconds=round(ahead.total_seconds(), 1))

    def _crowded(self) -> bool:
        """Somebody has all the slots that it gets: what it is owed has to wait for one of them."""
        return (
            max(self._busy.values(), default=0) >= self._caps.endpoint
            or max(self._busy_tenants.values(), default=0) >= self._caps.tenant
        )

    def _room(self) -> tuple[int, Load]:
        """How many to claim, and what there is to do already.

        As many posts as ended since the last claim are taken to end until the next one, and half as many again while
        it is made: with quick receivers the next ones wait here when a slot comes free, with slow ones nothing is held
        that another worker could send. So what is claimed at a time grows until the receivers, or this process, are
        the limit. What waits for a place among those of its own endpoint or tenant takes none from others.
        """
        held = self._busy + Counter({lane: len(jobs) for lane, jobs in self._waiting.items()})
        soon, self._ended = Counter({lane: n + n // 2 for lane, n in self._ended.items()}), Counter()
        places: Counter[UUID] = Counter()
        for (tenant_id, _), n in held.items():
            places[tenant_id] += min(n, self._caps.endpoint)
        taken = sum(min(n, self._caps.tenant) for n in places.values())
        wanted = min(self._concurrency - taken + soon.total(), CLAIM_BATCH)
        busy = {lane: held[lane] - soon[lane] for lane in held | soon}
        self._shut = {lane: claim for lane, claim in self._shut.items() if claim in self._results}
        busy |= dict.fromkeys(self._shut, self._caps.endpoint)
        return wanted, Load(busy, held, {claim.token for claim in chain(self._begin_by, self._results)})

    async def _claim(self, n: int, load: Load) -> list[Claim]:
        started = time.perf_counter()
        claims = await deliveries.claim(self._db.at_once, n, self._lease, self._caps, load, patience=self._indulgence)
        CLAIM_SECONDS.observe(time.perf_counter() - started)
        return claims

    async def _load(self, claims: Sequence[Claim], begun: float) -> None:
        """Fetch what was claimed at `begun`. If that fails, the leases run out and it is claimed again."""
        async with self._db.across("work", _tenants(claims)) as connection:
            jobs = await deliveries.load(connection, self._cursors, claims)
        for job in jobs:
            self._waiting.setdefault(job.lane, deque()).append(job)
            self._begin_by[job.claim] = begun + self._patience

    # Posting.

    def _begin(self) -> None:
        """Post what waits, as far as there are slots."""
        for lane, jobs in list(self._waiting.items()):
            while jobs and len(self._posts) < self._concurrency and self._may_begin(lane):
                job = jobs.popleft()
                # A process that stood still may have lost it by now, and another may be posting it.
                if time.monotonic() > self._begin_by[job.claim]:
                    del self._begin_by[job.claim]
                    continue
                self._busy[lane] += 1
                self._busy_tenants[lane[0]] += 1
                task = asyncio.create_task(self._post(job))
                self._posts[task] = job
                task.add_done_callback(self._posted)
            if not jobs:
                del self._waiting[lane]
        IN_FLIGHT.set(len(self._posts))

    async def _show_slots(self) -> None:
        """Only tenants that have some: there may be many, and a label is kept for as long as the process lives."""
        TENANT_SLOTS.clear()
        for tenant_id, n in self._busy_tenants.items():
            TENANT_SLOTS.labels(ids.show("ten", tenant_id)).set(n)

    def _may_begin(self, lane: Lane) -> bool:
        return self._busy[lane] < self._caps.endpoint and self._busy_tenants[lane[0]] < self._caps.tenant

    async def _post(self, job: Job) -> None:
        now = local_time() - (self._ahead or timedelta(0))
        result = await delivery.attempt(job, self._door, self._vault, self._delays, now)
        self._results[job.claim] = result
        if result.duration_ms <= QUICK_MS:
            self._ended[job.lane] += 1
        self._judge(job, result)
        self._all_settled.clear()
        self._has_results.set()

    def _judge(self, job: Job, result: Result) -> None:
        """What waits here for an endpoint whose breaker opens with this result was claimed too early."""
        lane = job.lane
        if result.status == DeliveryStatus.DELIVERED:
            self._failing.pop(lane, None)
            return
        self._failing[lane] += 1
        if self._failing[lane] >= self._indulgence.failures:
            self._shut[lane] = job.claim
            unwanted = [job.claim for job in self._waiting.pop(lane, ())]
            self._unwanted += unwanted
            for claim in unwanted:
                del self._begin_by[claim]

    def _posted(self, task: asyncio.Task[None]) -> None:
        job = self._posts.pop(task)
        self._begin_by.pop(job.claim)
        lane = job.lane
        # Subtracting in place forgets who has none left.
        self._busy -= Counter([lane])
        self._busy_tenants -= Counter([lane[0]])
        self._begin()
        if self._short:
            self._rung.set()

    # Writing down.

    async def _settle_always(self) -> None:
        failures = 0
        while True:
            await self._has_results.wait()
            await asyncio.sleep(_back_off(failures) if failures else SETTLE_WAIT)
            try:
                await self._settle(list(islice(self._results.values(), SETTLE_BATCH)))
                failures = 0
            except ServiceUnavailable:
                self._seen(away=True)
                failures += 1
            except Exception:
                log.exception("webhook_settle_failed", results=len(self._results))
                failures += 1
            if not self._results:
                self._has_results.clear()
                self._all_settled.set()

    async def _settle(self, results: Sequence[Result]) -> None:
        started = time.perf_counter()
        try:
            async with self._db.across("work", _tenants(result.claim for result in results)) as connection:
                settled = await deliveries.settle(connection, results, self._indulgence)
                logged = await outbox.announce_disabled(connection, settled.disabled)
        except CONFLICTS as exc:
            raise ServiceUnavailable("Another transaction was in the way.") from exc
        except asyncpg.PostgresError:
            if len(results) > 1:
                for result in results:
                    await self._settle([result])
                return
            log.exception("webhook_result_refused", delivery=str(results[0].claim.id))
            settled, logged = deliveries.Settled(set(), []), []
        SETTLE_SECONDS.observe(time.perf_counter() - started)
        for result in results:
            del self._results[result.claim]
            ATTEMPTS.labels(result.status.lower() if result.claim.id in settled.ids else "stale").inc()
        self._tell(settled.disabled, logged)
        self._tell_watchers(result.claim for result in results if result.claim.id in settled.ids)
        if any(result.retry_in is not None for result in results):
            self._wake()
        elif self._short:
            self._rung.set()

    def _tell(self, disabled: Sequence[Disabled], logged: Sequence[Logged]) -> None:
        for endpoint in disabled:
            log.warning(
                "webhook_endpoint_disabled",
                tenant=ids.show("ten", endpoint.tenant_id),
                endpoint=ids.show("whk", endpoint.endpoint_id),
                reason=endpoint.reason,
            )
        if logged:
            self._ring(logged)

    def _tell_watchers(self, claims: Iterable[Claim]) -> None:
        """One ring a tenant and batch, whether or not somebody watches."""
        if self._bell is None:
            return
        moved: dict[UUID, list[UUID]] = {}
        for claim in claims:
            moved.setdefault(claim.tenant_id, []).append(claim.id)
        for tenant_id, delivery_ids in moved.items():
            delivery_feed.ring(self._bell, tenant_id, delivery_ids)

    async def _renew(self) -> None:
        held = [*self._begin_by, *self._results]
        if not held:
            return
        begun = time.monotonic()
        async with self._db.across("work", _tenants(held)) as connection:
            ours = await deliveries.renew(connection, held, self._lease)
        for claim in held:
            if claim.id in ours and claim in self._begin_by:
                self._begin_by[claim] = begun + self._patience

    async def _give_back(self) -> None:
        unwanted, self._unwanted = self._unwanted, []
        await self._release(unwanted)

    async def _release(self, claims: Sequence[Claim]) -> None:
        if claims:
            async with self._db.across("work", _tenants(claims)) as connection:
                await deliveries.release(connection, claims)

    # Waking and stopping.

    def _wake(self) -> None:
        self._news.set()
        self._rung.set()

    async def _listen(self) -> None:
        """Without a bell, and should it break, the poll does."""
        if self._bell is None:
            return
        try:
            async with self._bell.listen(DELIVERIES) as listener:
                while True:
                    await listener.heard()
                    self._wake()
        except BellStopped:
            pass
        except Exception:
            log.exception("worker_deaf")

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake()

    async def _drain(self) -> None:
        unbegun = self._unwanted + [job.claim for jobs in self._waiting.values() for job in jobs]
        self._waiting.clear()
        log.info("worker_draining", in_flight=len(self._posts), given_back=len(unbegun))
        with contextlib.suppress(ServiceUnavailable):
            await self._release(unbegun)
        if self._posts:
            await asyncio.wait(self._posts, timeout=FINISH_WITHIN)
        late = [job.claim for job in self._posts.values()]
        await _cancel(self._posts)
        with contextlib.suppress(TimeoutError, ServiceUnavailable):
            async with asyncio.timeout(SETTLE_WITHIN):
                await self._release([claim for claim in late if claim not in self._results])
                await self._all_settled.wait()

    def _seen(self, *, away: bool) -> None:
        """One line when the database goes and one when it comes back."""
        if away != self._away:
            self._away = away
            log.warning("database_away" if away else "database_back", unsettled=len(self._results))


async def work(
    settings: Settings,
    *,
    concurrency: int = 50,
    metrics_port: int | None = None,
    metrics_host: str = "127.0.0.1",
    stop: asyncio.Event | None = None,
) -> None:
    """One worker, from settings, until SIGTERM or SIGINT, or until `stop` is set where the caller minds the signals.

    Whatever is away at the start is waited for. Raises OSError when the metrics' port is taken.
    """
    if stop is None:
        stop = asyncio.Event()
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signal_number, stop.set)
    vault = Vault(settings.secret_key.get_secret_value())
    async with AsyncExitStack() as stack:
        if metrics_port is not None:
            server, thread = start_http_server(metrics_port, metrics_host, registry=telemetry.REGISTRY)
            stack.callback(thread.join, 5)
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        db = Database(
            settings.database_url.get_secret_value(),
            pool=settings.database_pool,
            statement_cache=settings.statement_cache,
            statement_timeout=settings.database_timeout_seconds,
        )
        await db.start()
        stack.push_async_callback(db.stop)
        bell: Bell | None = None
        if settings.redis_url is not None:
            bell = Bell(settings.redis_url.get_secret_value())
            await bell.start()
            stack.push_async_callback(bell.stop)
        door = await stack.enter_async_context(
            Outbound(
                AddressGuard(settings.webhook_allow_networks),
                timeout=timedelta(seconds=settings.webhook_timeout_seconds),
                connections=concurrency,
            )
        )
        await Worker(db, door, vault, settings, bell, concurrency=concurrency).run(stop)


def _tenants(claims: Iterable[Claim]) -> list[UUID]:
    return list({claim.tenant_id for claim in claims})


def local_time() -> datetime:
    """What this machine takes for now."""
    return datetime.now(UTC)


async def _either(event: asyncio.Event, seconds: float) -> None:
    """Until it is set, or the time is over."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _back_off(failures: int) -> float:
    return min(0.1 * 2.0 ** min(failures, 10), LONGEST_PAUSE) * random.uniform(0.5, 1)  # noqa: S311


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
