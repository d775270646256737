"""Virtual terminals that speak either dialect over plain TCP and behave as firmware does, its oddities included.

A terminal owns its records. It uploads them oldest first and lets go of one only after a whole answer came back with
status 200 and a body that starts with `OK`; after anything else it sends the same records again. Of a request that was
cut short nobody knows whether the server stored it, so its records are marked *unknown*, never failed. That is all the
truth a test needs: what was acknowledged must be stored exactly once, what is unknown at most once.

Three layers, each usable alone: `link` (one HTTP connection), `terminal` and `access` (one device of either dialect,
with its `records` and the `memory` that outlasts its power), and `play` (a `fleet` of them living through one of the
`scenarios`). Nothing of the server is imported here: the two sides share only the protocol.
"""

from __future__ import annotations

from app.simulator.access import AccessTerminal as AccessTerminal
from app.simulator.fleet import Report as Report
from app.simulator.link import CutShort as CutShort
from app.simulator.link import Link as Link
from app.simulator.link import Unreachable as Unreachable
from app.simulator.link import reach as reach
from app.simulator.memory import MemoryUnusable as MemoryUnusable
from app.simulator.memory import memories as memories
from app.simulator.play import UnknownScenario as UnknownScenario
from app.simulator.play import serial_numbers as serial_numbers
from app.simulator.play import simulate as simulate
from app.simulator.records import WALL_CLOCK as WALL_CLOCK
from app.simulator.records import Options as Options
from app.simulator.records import Outcome as Outcome
from app.simulator.records import Quirk as Quirk
from app.simulator.records import Record as Record
from app.simulator.records import State as State
from app.simulator.records import TerminalReport as TerminalReport
from app.simulator.terminal import Terminal as Terminal
