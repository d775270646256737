"""One virtual terminal of the security dialect."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime

from app.simulator.link import Answer
from app.simulator.records import WALL_CLOCK, Options, Quirk, Record, read_zone
from app.simulator.terminal import Terminal, read_fields
from protocol.adms import clock as adms_clock
from protocol.adms.errors import BadTime

#: In a packet of an answer, where it comes in several.
_PACKET_BYTES = 100


class AccessTerminal(Terminal):
    """A unit of the security dialect: it registers, sends its punches as events, and tells of its state.

    Of options it knows but what follows from them; events of doors come beside the punches of people.
    """

    def _line(self, number: int, pin: str, at: datetime, state: int, verify: int, _work_code: str) -> str:
        return (
            f"time={at:{WALL_CLOCK}}\tpin={pin}\tcardno=0\teventaddr=1\tevent=0\tinoutstatus={int(state in (1, 2, 5))}"
            f"\tverifytype={verify}\tindex={number}"
        )

    def _target(self, _newest: Record) -> str:
        return f"/iclock/cdata?SN={self._sn}&table=rtlog"

    async def _shake_hands(self) -> None:
        hello = f"/iclock/cdata?SN={self._sn}&pushver=3.1.2&options=all&DeviceType=acc"
        answer = await self._ask("GET", hello, expects=(b"OK", b"registry=ok"))
        if not answer.body.startswith(b"registry=ok"):
            introduction = self._describe(",").replace("PushVersion=Ver 2.4.1", "DeviceType=acc,PushVersion=Ver 3.1.2")
            await self._ask("POST", f"/iclock/registry?SN={self._sn}", introduction.encode(), expects=b"RegistryCode=")
            answer = await self._ask("POST", f"/iclock/push?SN={self._sn}", expects=b"ServerVersion=")
        options = Options.parse(b"\n" + answer.body)
        time_answer = await self._ask("GET", f"/iclock/rtdata?SN={self._sn}&type=time", expects=b"DateTime=")
        self._take_time(time_answer.body.decode())
        self.options = options
        self._introduced, self._next_poll, self._next_transfer = False, 0.0, 0.0
        self._greeted.set()
        if Quirk.RESEND_ALL in self.quirks:
            self.forget_position()

    def _take_time(self, text: str) -> None:
        told = {key: value for key, _, value in (part.partition("=") for part in text.split(","))}
        offset = read_zone(told.get("ServerTZ", "")[:3] + ":" + told.get("ServerTZ", "")[3:])
        with suppress(ValueError, BadTime):
            utc = adms_clock.decode(int(told["DateTime"])).replace(tzinfo=UTC)
            if self._sets_clock and self._follows_date:
                self._skew = utc.timestamp() - self._clock()
        if offset is not None and self._sets_clock:
            self.offset = offset

    async def _poll(self, options: Options) -> None:
        state = f"time={self.wall_time():{WALL_CLOCK}}\tsensor=00\trelay=00\talarm=0000000000000000"
        await self._ask("POST", f"/iclock/cdata?SN={self._sn}&table=rtstate", self._body([state]))
        await super()._poll(options)

    def _set_clock(self, answer: Answer) -> None:
        """It asks for the time instead."""

    async def _carry_out(self, verb: str, command: str) -> tuple[int, str]:  # noqa: PLR0911  a table
        match command.split(" ", 2):
            case ["CONTROL", "DEVICE", "03000000"]:
                self._reboots = True
            case ["CONTROL", "DEVICE", what] if what.startswith("01"):
                self.doors_opened += 1
            case ["SET", "OPTIONS", told] if told.startswith("DateTime="):
                try:
                    return self._obey_clock(str(adms_clock.decode(int(told.partition("=")[2])))), ""
                except (ValueError, BadTime):
                    return -1, ""
            case ["ACCOUNT", "transaction", after] if after.startswith("MaxIndex="):
                number = int(after.partition("=")[2])
                return await self._send_again([record for record in self.records if record.number > number]), ""
            case ["DATA", "QUERY", _]:
                return -1, ""  # reported with its rows: see _obey
            case ["DATA", "UPDATE", user] if user.startswith("user "):
                fields = {key.lower(): value for key, value in read_fields(command).items()}
                ours = {"pin": "PIN", "name": "Name", "cardno": "Card", "privilege": "Pri"}
                known = {ours[key]: value for key, value in fields.items() if key in ours}
                return self._keep_user(known.get("PIN", ""), known), ""
            case ["DATA", "DELETE", user] if user.startswith("user "):
                self._forget_user(read_fields(command).get("Pin", ""))
            case ["DATA", *_] | ["REBOOT"] | ["AC_UNLOCK"] | ["ENROLL_FP", *_] | ["VERIFY", *_]:
                return -1004, ""  # the other dialect's words
            case _:
                return await super()._carry_out(verb, command)
        return 0, ""

    async def _obey(self, command_id: str, command: str) -> None:
        if not command.startswith("DATA QUERY tablename=user"):
            await super()._obey(command_id, command)
            return
        asked = re.search(r"filter=Pin=(\w+)", command)
        found = [user for pin, user in self.users.items() if asked is None or pin == asked[1]]
        rows = [
            f"user uid={n}\tcardno={user.get('Card', '')}\tpin={user['PIN']}\tpassword=\tname={user.get('Name', '')}"
            f"\tprivilege={user.get('Pri', '0')}"
            for n, user in enumerate(found, 1)
        ]
        body, most = self._body(rows), _PACKET_BYTES if Quirk.PACKETS in self.quirks else 2**24
        packets = [body[start : start + most] for start in range(0, len(body), most)] or [b""]
        query = f"type=tabledata&cmdid={command_id}&tablename=user&count={len(rows)}&packcnt={len(packets)}"
        for number, packet in enumerate(packets, 1):
            target = f"/iclock/querydata?SN={self._sn}&{query}&packidx={number}"
            await self._ask("POST", target, packet, expects=b"user=")
        self.executed.append((command_id, command, len(rows)))
