"""Whether one can listen at an address: asked before anything is started, and answered in a sentence."""

from __future__ import annotations

import errno
import socket


class CannotListen(Exception):
    """Nobody can listen there, and why."""


class PortTaken(CannotListen):
    """Somebody does already."""


def ask(host: str, port: int, *, by: str = "--port") -> None:
    """Return if one could listen there now; `by` is the option that names another port.

    Raises CannotListen, PortTaken when that is why.
    """
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise CannotListen(f"No host is known as {host!r}. Name an address of this machine by --host.") from None
    for family, kind, protocol, _, place in places:
        try:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
        except OSError as exc:
            raise _explained(host, port, by, exc) from exc


def _explained(host: str, port: int, by: str, exc: OSError) -> CannotListen:
    match exc.errno:
        case errno.EADDRINUSE:
            return PortTaken(f"Port {port} on {host} is taken. End what listens there, or name another by {by}.")
        case errno.EADDRNOTAVAIL:
            return CannotListen(f"{host} is not an address of this machine. Name one that is by --host.")
        case errno.EACCES | errno.EPERM:
            return CannotListen(f"This user may not listen on port {port} of {host}. Name another by {by}.")
        case _:
            return CannotListen(f"Nobody can listen on port {port} of {host}: {exc.strerror}. Name another by {by}.")
