"""The whole life of a terminal, by GraphQL and a virtual terminal alone: from a stranger's knock to another tenant."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest

from app.simulator import Link, State, Terminal
from tests.journeys.rig import Customer, Rig, Server, until
from tests.receiver import Receiver

WITHIN = 300.0
SERIAL = "LIFE00000001"
SITE = 'mutation { siteCreate(input: {name: "Works", timeZone: "Africa/Casablanca"}) { site { id } } }'
WAITING = '{ device(serialNumber: "LIFE00000001") { id status } }'
APPROVE = """
mutation ($id: ID!, $site: ID!) {
    deviceApprove(input: {id: $id, siteId: $site}) { device { status timeZone } userErrors { code } }
}
"""
REGISTER = """
mutation {
    deviceRegister(input: {serialNumber: "LIFE00000001", timeZone: "Africa/Casablanca"}) {
        device { id status } userErrors { code }
    }
}
"""
RETIRE = "mutation ($id: ID!) { deviceRetire(input: {id: $id}) { device { status } userErrors { code } } }"
BULK = """
mutation ($rows: [EmployeeRowInput!]!) {
    employeeBulkUpsert(input: {employees: $rows}) { employees { pin } userErrors { message } }
}
"""
STATES = """
query ($after: String) {
    employees(first: 100, after: $after) { nodes { placements { state } } pageInfo { hasNextPage endCursor } }
}
"""
LOOK = """
query ($id: ID!) {
    device(id: $id) {
        status connection flags storedPunchCount reportedPunchCount reportedUserCount lastReconciledAt unknownPins
        completeness { state missing { count } }
        punches(last: 1) { nodes { pin employee { name } } }
    }
}
"""


class Tenant:
    """What one customer's program asks, and its terminal's address."""

    def __init__(self, server: Server, customer: Customer) -> None:
        self.server, self.customer = server, customer
        self.device_id = ""

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return await self.server.graphql(self.customer.api_key, query, **variables)

    async def device(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.ask(LOOK, id=self.device_id))["device"]
        return found

    async def placed(self) -> Counter[str]:
        """How many placements are in each state."""
        counted: Counter[str] = Counter()
        page: dict[str, Any] = {"pageInfo": {"hasNextPage": True, "endCursor": None}}
        while page["pageInfo"]["hasNextPage"]:
            page = (await self.ask(STATES, after=page["pageInfo"]["endCursor"]))["employees"]
            counted.update(placement["state"] for person in page["nodes"] for placement in person["placements"])
        return counted

    def sees(self, **wanted: Any) -> Callable[[], Awaitable[bool]]:
        """Whether the device shows this by now."""

        async def seen() -> bool:
            shown = await self.device()
            shown |= {"state": (shown["completeness"] or {}).get("state"), "strangers": len(shown["unknownPins"])}
            return all(shown[name] == value for name, value in wanted.items())

        return seen


def punch_all(terminal: Terminal, people: int, since: timedelta) -> None:
    """Everybody, a minute after the other."""
    start = terminal.wall_time() - since
    for n in range(people):
        terminal.punch(f"{n:04}", start + timedelta(minutes=n))


@pytest.mark.parametrize("people", [60, pytest.param(1000, marks=pytest.mark.full)])
async def test_a_terminal_is_approved_filled_cut_off_reset_and_moved(rig: Rig, people: int) -> None:
    await rig.staff(servers=2, workers=1, reconcile_settle_seconds="0.5", reconcile_hours="0.002")
    first, second = [Tenant(server, await rig.add_customer(0)) for server in rig.servers]
    address = first.customer.dial(first.server)
    terminal = Terminal(SERIAL, address, speed=200, keep_alive=True, timeout=10, sets_clock=True)
    punch_all(terminal, 5, timedelta(days=3))  # before anybody knew it
    running = asyncio.create_task(terminal.run())
    try:
        # A stranger knocks: it waits, and nothing of it is taken.
        await until_found(first)
        waiting = (await first.ask(WAITING))["device"]
        assert waiting["status"] == "PENDING"
        assert all(record.state is not State.ACKNOWLEDGED for record in terminal.records)

        # It is approved, and sends everything from the beginning.
        site = (await first.ask(SITE))["siteCreate"]["site"]["id"]
        approved = (await first.ask(APPROVE, id=waiting["id"], site=site))["deviceApprove"]
        assert approved == {"device": {"status": "ACTIVE", "timeZone": "Africa/Casablanca"}, "userErrors": []}
        first.device_id = waiting["id"]
        await until(first.sees(storedPunchCount=5, connection="ONLINE"), WITHIN, terminal.report)

        # It is filled with people; what they punched before they were known is theirs.
        rows = [{"pin": f"{n:04}", "name": f"Person {n}", "deviceIds": [first.device_id]} for n in range(people)]
        assert (await first.ask(BULK, rows=rows))["employeeBulkUpsert"]["userErrors"] == []
        await until(lambda: confirmed(first, people), WITHIN, lambda: len(terminal.users))
        assert set(terminal.users) == {f"{n:04}" for n in range(people)}
        oldest = {"pin": "0000", "employee": {"name": "Person 0"}}
        assert (await first.device())["punches"]["nodes"] == [oldest]

        # An outage: it is cut off while everybody punches, and its firmware loses its place over some of them.
        terminal.unplug()
        punch_all(terminal, people, timedelta(days=1))
        for record in [record for record in terminal.records if record.state is State.PENDING][10:17]:
            record.state = State.ACKNOWLEDGED
            terminal._queue.remove(record)
        await first.server.kill()
        await first.server.start()
        await first.server.ready()
        terminal.plug_in()
        # Nobody asks for them: they are counted, found missing and fetched, as soon as it is its turn.
        await until(first.sees(storedPunchCount=5 + people, state="COMPLETE"), WITHIN, terminal.report)

        # A factory reset: nobody is on it, and its numbers start again. People come back, nothing is doubled.
        terminal.factory_reset()
        punch_all(terminal, 3, timedelta(minutes=10))
        await until(first.sees(storedPunchCount=8 + people), WITHIN, terminal.report)
        await until(lambda: filled(terminal, people), WITHIN, lambda: len(terminal.users))
        await until(lambda: confirmed(first, people), WITHIN, first.placed)
        assert "reset_detected" in (await first.device())["flags"]

        # It is sold: retired here, registered there, and pointed to the other address.
        before = await first.device()
        assert (await first.ask(RETIRE, id=first.device_id))["deviceRetire"]["device"] == {"status": "RETIRED"}
        registered = (await second.ask(REGISTER))["deviceRegister"]
        assert registered["userErrors"] == []
        second.device_id = registered["device"]["id"]
        terminal.unplug()
        terminal.link = Link(second.customer.dial(second.server), keep_alive=True, timeout=10)
        punch_all(terminal, 4, timedelta(minutes=5))
        terminal.plug_in()

        # What it holds is the new owner's, strangers included; the former one keeps what was theirs, and gets no more.
        await until(
            second.sees(status="ACTIVE", storedPunchCount=7, state="COMPLETE", strangers=people),
            WITHIN,
            lambda: (terminal.report(details=False), list(terminal.executed)[-5:]),
        )
        after = await first.device()
        assert (after["status"], after["storedPunchCount"]) == ("RETIRED", before["storedPunchCount"])
        assert await second.ask("{ employees(first: 1) { nodes { id } } }") == {"employees": {"nodes": []}}
        assert (await second.device())["flags"] == ["unknown_users"]
    finally:
        terminal.stop()
        await asyncio.wait([running], timeout=15)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    # Every receiver heard of the punches of its own tenant, each once.
    for tenant, count in ((first, 8 + people), (second, 7)):
        await tenant.customer.receiver.until(partial(heard, count), WITHIN)
        serials = {request.payload["data"]["device"]["id"] for request in tenant.customer.receiver.requests}
        assert serials == {tenant.device_id}


async def until_found(tenant: Tenant) -> None:
    """Until the stranger is in the list; before that it is not found, which is an error."""
    query = "{ devices(first: 1) { nodes { id } } }"

    async def listed() -> bool:
        return bool((await tenant.ask(query))["devices"]["nodes"])

    await until(listed, WITHIN)


async def confirmed(tenant: Tenant, people: int) -> bool:
    return await tenant.placed() == {"CONFIRMED": people}


async def filled(terminal: Terminal, people: int) -> bool:
    return len(terminal.users) == people


def heard(count: int, receiver: Receiver) -> bool:
    return len({request.payload["data"]["id"] for request in receiver.requests}) == count
