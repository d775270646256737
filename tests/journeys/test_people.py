"""A terminal filled with people, entirely by GraphQL and a virtual terminal, while the server comes and goes."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from app.simulator import Terminal
from tests.journeys.rig import Customer, Rig, Server, until

PEOPLE = 1000
WITHIN = 300.0

BULK = """
mutation ($rows: [EmployeeRowInput!]!) {
    employeeBulkUpsert(input: {employees: $rows}) { employees { pin } userErrors { message } }
}
"""
UPSERT = """
mutation ($input: EmployeeUpsertInput!) {
    employeeUpsert(input: $input) { employee { pin } userErrors { message } }
}
"""
STATES = """
query ($after: String) {
    employees(first: 100, after: $after) {
        nodes { pin placements { state device { serialNumber } } } pageInfo { hasNextPage endCursor }
    }
}
"""


class Staff:
    """What the customer's own program knows of its people."""

    def __init__(self, server: Server, customer: Customer) -> None:
        self.server, self.customer = server, customer

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        return await self.server.graphql(self.customer.api_key, query, **variables)

    async def states(self) -> Counter[str]:
        """How many placements are in each state."""
        counted: Counter[str] = Counter()
        cursor = None
        while True:
            page = (await self.ask(STATES, after=cursor))["employees"]
            for person in page["nodes"]:
                counted.update(placement["state"] for placement in person["placements"])
            cursor = page["pageInfo"]["endCursor"]
            if not page["pageInfo"]["hasNextPage"]:
                return counted


async def test_a_terminal_is_filled_survives_a_crash_and_a_factory_reset_and_lists_a_stranger(rig: Rig) -> None:
    await rig.staff(servers=1, workers=1)
    [server] = rig.servers
    customer = await rig.add_customer(1)
    staff = Staff(server, customer)
    serial = customer.serials[0]
    terminal = Terminal(serial, customer.dial(server), speed=200, keep_alive=True, timeout=10)
    running = asyncio.create_task(terminal.run())
    try:
        await asyncio.wait_for(terminal.greeted(), WITHIN)
        device = (await staff.ask("query ($s: String) { device(serialNumber: $s) { id status } }", s=serial))["device"]
        assert device["status"] == "ACTIVE"

        # A thousand people in one call; in the middle of the filling the server is killed.
        rows = [{"pin": f"{n:04}", "name": f"Person {n}", "deviceIds": [device["id"]]} for n in range(PEOPLE)]
        done = (await staff.ask(BULK, rows=rows))["employeeBulkUpsert"]
        assert done["userErrors"] == []
        await until(lambda: _true(len(terminal.users) > PEOPLE // 10), WITHIN)
        await server.kill()
        await server.start()
        await server.ready()

        await _all_confirmed(staff, PEOPLE)
        assert set(terminal.users) == {f"{n:04}" for n in range(PEOPLE)}
        assert terminal.users["0042"] | {"PIN": "0042", "Name": "Person 42", "Pri": "0"} == terminal.users["0042"]

        # Somebody was added at the menu, and somebody leaves the company.
        terminal.users["9999"] = {"PIN": "9999", "Name": "Who"}
        gone = (await staff.ask('{ employee(pin: "0007") { id } }'))["employee"]["id"]
        await staff.ask("mutation ($id: ID!) { employeeDelete(input: {id: $id}) { deletedId } }", id=gone)
        await until(lambda: _true("0007" not in terminal.users), WITHIN)

        # A factory reset: nobody is left, and nobody here is told.
        terminal.users.clear()
        terminal.users["9999"] = {"PIN": "9999", "Name": "Who"}
        terminal.unplug()
        terminal.plug_in()
        await until(lambda: _true(len(terminal.users) == PEOPLE), WITHIN, lambda: len(terminal.users))
        await _all_confirmed(staff, PEOPLE - 1)

        device = (await staff.ask("query ($s: String) { device(serialNumber: $s) { unknownPins } }", s=serial))[
            "device"
        ]
        assert device["unknownPins"] == ["9999"]

        # And a change reaches the terminal.
        await staff.ask(UPSERT, input={"pin": "0042", "name": "Amina", "cardNumber": "778899", "privilege": "ADMIN"})
        await until(lambda: _true(terminal.users["0042"].get("Name") == "Amina"), WITHIN)
        assert (terminal.users["0042"]["Card"], terminal.users["0042"]["Pri"]) == ("778899", "14")
        await _all_confirmed(staff, PEOPLE - 1)
    finally:
        terminal.stop()
        await asyncio.wait([running], timeout=15)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def _true(met: bool) -> bool:
    return met


async def _all_confirmed(staff: Staff, people: int) -> None:
    seen: Counter[str] = Counter()

    async def met() -> bool:
        nonlocal seen
        seen = await staff.states()
        return seen == {"CONFIRMED": people}

    # To ask for a thousand people is work that the filling waits for.
    await until(met, WITHIN, lambda: seen, every=2.0)
