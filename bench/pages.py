"""What page N of a list of punches costs beside page 1, among very many punches.

A tenant gets 300,000 punches, or ten million with `--long`, and another tenant a tenth of that; they are made inside
PostgreSQL. Pages of 50 with device and employee are asked of a server over HTTP: the first one, and those at the middle
and at the end, whose cursors are written here instead of walking there. Requests take turns, so that a slow moment hits
all of them. The plans of the same statements are looked at: none may read a table from end to end, and the blocks that
they touch are counted.

Figures are milliseconds, medians; the floor is page 1 of the same list in the same run.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson

from app import ids, paging
from app.domain import punches
from app.domain.employees import Employee
from app.domain.punches import Wanted
from app.paging import Order, Place
from bench.stand import Stand, server, stand
from bench.statements import noted

SHORT, LONG = 300_000, 10_000_000
#: Of fewer punches PostgreSQL may well read the table.
MANY = 100_000
DEVICES, PEOPLE = 50, 1_000
SIZE = 50
QUERY = """
query ($first: Int, $after: String, $filter: PunchFilter, $orderBy: PunchOrder) {
  punches(first: $first, after: $after, filter: $filter, orderBy: $orderBy) {
    nodes { id pin punchedAt direction device { id name } employee { id name } }
    pageInfo { hasNextPage hasPreviousPage endCursor }
  }
}
"""
FILL = """
INSERT INTO punches (tenant_id, id, device_id, pin, local_time, time_zone, punched_at, received_at, direction,
    state_code, verify_mode, verify_code, buffered, raw)
SELECT $1, uuid7(), ($2::uuid[])[1 + n % cardinality($2::uuid[])], (n % $4)::text,
    timestamp '2020-01-01' + n * interval '13 seconds', 'UTC',
    timestamptz '2020-01-01 00:00Z' + n * interval '13 seconds',
    timestamptz '2020-01-01 00:00:02Z' + n * interval '13 seconds',
    n % 2, n % 2, 3, 15, n % 10 = 0,
    convert_to(n::text, 'UTF8')
FROM generate_series(1, $3::integer) AS n
"""


@dataclass(frozen=True, slots=True)
class List:
    """A list as it is asked for, and as the database is asked."""

    name: str
    order: Order
    wanted: Wanted
    filter: dict[str, Any] | None
    where: str = "true"

    def variables(self, after: str | None) -> dict[str, Any]:
        """Of QUERY."""
        field, _, way = self.order.name.partition(" ")
        return {"first": SIZE, "after": after, "filter": self.filter, "orderBy": {"field": field, "direction": way}}


def lists(device_ids: list[UUID]) -> list[List]:
    """What customers page through."""
    newest, arrived = punches.BY_PUNCHED_AT, punches.BY_RECEIVED_AT
    some = tuple(device_ids[:3])
    names = [ids.show("dev", each) for each in some]
    return [
        List("newest first", newest.down, punches.EVERY, None),
        List("oldest first", newest.up, punches.EVERY, None),
        List("by arrival", arrived.down, punches.EVERY, None),
        List(
            "one device", newest.down, Wanted(device_ids=some[:1]), {"deviceIds": names[:1]}, f"device_id = '{some[0]}'"
        ),
        List(
            "three devices",
            newest.down,
            Wanted(device_ids=some),
            {"deviceIds": names},
            f"device_id IN ({', '.join(repr(str(each)) for each in some)})",
        ),
        List("one PIN", newest.down, Wanted(pins=("7",)), {"pins": ["7"]}, "pin = '7'"),
        List("buffered ones", newest.down, Wanted(buffered=True), {"buffered": True}, "buffered"),
    ]


async def measure(count: int, turns: int) -> list[dict[str, Any]]:
    """A row for each list and depth."""
    rows = []
    async with stand() as rig:
        rig.environment |= {"PUNCHCONNECT_API_POINTS": "1000000000", "PUNCHCONNECT_API_RESTORE": "1000000000"}
        tenant_id, api_key, device_ids = await _fill(rig, count)
        async with server(rig, "app.main:create_app") as url, httpx.AsyncClient(trust_env=False, timeout=60) as http:
            http.headers["Authorization"] = f"Bearer {api_key}"
            for each in lists(device_ids):
                rows += await _compare(rig, tenant_id, each, http, url, turns=turns, seeks=count >= MANY)
    print(f"{count:,} punches of one tenant, {count // 10:,} of another", file=sys.stderr)
    return rows


async def _fill(rig: Stand, count: int) -> tuple[UUID, str, list[UUID]]:
    """Two tenants with punches; the larger one."""
    made = [(await rig.add_tenant(DEVICES), share) for share in (count, count // 10)]
    superuser = await asyncpg.connect(rig.postgres.superuser_url.rsplit("/", 1)[0] + "/punchconnect")
    # One pass over the heap and then over each index, which is how so many rows fit into minutes.
    indexes = await superuser.fetch(
        "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'punches' AND indexname <> 'pk_punches'"
    )
    for index in indexes:
        await superuser.execute(f"DROP INDEX {index['indexname']}")
    await superuser.execute("SET session_replication_role = replica; SET maintenance_work_mem = '256MB'")
    for tenant, share in made:
        devices = await superuser.fetch("SELECT id FROM devices WHERE tenant_id = $1 ORDER BY id", tenant.id)
        device_ids = [UUID(str(row["id"])) for row in devices]
        await superuser.execute(FILL, tenant.id, device_ids, share, PEOPLE, timeout=3600)
        async with rig.db.write(tenant.id) as session:
            session.add_all(
                [Employee(tenant_id=tenant.id, pin=f"{n}", name=f"Person {n}") for n in range(0, PEOPLE, 2)]
            )
        if share == count:
            found = tenant.id, tenant.api_key, device_ids
    for index in indexes:
        await superuser.execute(index["indexdef"], timeout=3600)
    await superuser.execute("VACUUM ANALYZE punches", timeout=3600)
    await superuser.execute("ANALYZE")
    await superuser.close()
    return found


async def _compare(
    rig: Stand, tenant_id: UUID, each: List, http: httpx.AsyncClient, url: str, *, turns: int, seeks: bool
) -> list[dict[str, Any]]:
    """Page 1 beside the pages at the middle and near the end. Nothing for a list without a whole second page."""
    owner = await asyncpg.connect(rig.postgres.superuser_url.rsplit("/", 1)[0] + "/punchconnect")
    key = each.order.key.key if each.order.key is not None else "id"
    way = "DESC" if each.order.descending else "ASC"
    total = await owner.fetchval(f"SELECT count(*) FROM punches WHERE tenant_id = $1 AND {each.where}", tenant_id)
    if total < 2 * SIZE:
        print(f"{each.name}: {total} punches are too few", file=sys.stderr)
        await owner.close()
        return []
    cursors = paging.Cursors(rig.vault.cursor_key)
    asked = cursors.ask(tenant_id, "punches", each.order, each.wanted, first=SIZE)
    depths: dict[int, str | None] = {1: None}
    for share in (0.5, 0.999):
        at = min(max(int(total * share) // SIZE, 1), total // SIZE - 1)  # what follows is a whole page
        row = await owner.fetchrow(
            f"SELECT {key} AS key, id FROM punches WHERE tenant_id = $1 AND {each.where} "
            f"ORDER BY {key} {way}, id {way} OFFSET $2 LIMIT 1",
            tenant_id,
            at * SIZE - 1,
            timeout=600,
        )
        depths[at + 1] = cursors.write(tenant_id, asked.binding, Place(row["key"], row["id"]))
    await owner.close()

    spent: dict[int, list[float]] = {depth: [] for depth in depths}
    for _ in range(turns):
        for depth, cursor in depths.items():
            started = time.perf_counter()
            answer = await http.post(f"{url}/graphql", json={"query": QUERY, "variables": each.variables(cursor)})
            spent[depth].append(time.perf_counter() - started)
            page = answer.json()["data"]["punches"]
            assert len(page["nodes"]) == SIZE
            assert page["pageInfo"]["hasPreviousPage"] is (cursor is not None)
    blocks = {depth: await _blocks(rig, tenant_id, each, cursor, seeks=seeks) for depth, cursor in depths.items()}
    first, *deep = depths
    floor = statistics.median(spent[first]) * 1000
    return [
        {
            "name": f"{total:,} punches, {each.name}: page {depth:,}, {blocks[depth]} blocks; page 1, {blocks[first]}",
            "figure": round(figure := statistics.median(spent[depth]) * 1000, 2),
            "unit": "ms",
            "floor": round(floor, 2),
            "ratio": round(figure / floor, 2),
        }
        for depth in deep
    ]


async def _blocks(rig: Stand, tenant_id: UUID, each: List, cursor: str | None, *, seeks: bool) -> int:
    """How many blocks the page's statements touch. RuntimeError when one that `seeks` reads a table from end to end."""
    asked = paging.Cursors(rig.vault.cursor_key).ask(
        tenant_id, "punches", each.order, each.wanted, first=SIZE, after=cursor
    )
    async with noted(rig.db) as statements, rig.db.read(tenant_id) as session:
        await punches.page(session, tenant_id, asked)
    async with rig.db.read(tenant_id) as session:
        connection = await session.connection()
        touched = 0
        for statement, parameters in statements:
            explained = await connection.exec_driver_sql(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", parameters
            )
            told = explained.scalar_one()
            (plan,) = orjson.loads(told) if isinstance(told, str) else told
            if seeks and "Seq Scan" in orjson.dumps(plan).decode():
                raise RuntimeError(f"{each.name}: a table is read from end to end.\n{statement}")
            top = plan["Plan"]
            touched += top["Shared Hit Blocks"] + top["Shared Read Blocks"]
    return touched


def run(short: bool) -> list[dict[str, Any]]:
    """All rows."""
    return asyncio.run(measure(SHORT if short else LONG, 20 if short else 60))


if __name__ == "__main__":
    for row in asyncio.run(measure(int(sys.argv[1]), 40)):
        print(f"{row['name']:<75} {row['figure']:>8} ms of {row['floor']:>8}  {row['ratio']:.2f}")
