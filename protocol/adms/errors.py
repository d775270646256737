"""What can be wrong with what a terminal said, or with what we are about to say to it."""

from __future__ import annotations


class AdmsError(Exception):
    """The only thing this package raises, whatever the bytes are."""


class MissingSerial(AdmsError):
    """The request names no terminal."""


class BadSerial(AdmsError):
    """The serial number is not 1 to 64 letters, digits, `_`, `.` or `-`, or the request names two of them."""


class BadTime(AdmsError):
    """A number that encodes no calendar time, or a time that cannot be encoded or said."""


class BadPhoto(AdmsError):
    """A photo upload without the header that says whose it is."""


class BadRecord(AdmsError):
    """A record that cannot be written as a line: a value would end its column or its line early."""


class BadCommand(AdmsError):
    """A command that cannot be written as one line: an unfit id, or a control character in a value."""


class CommandNotSupported(AdmsError):
    """The terminal's dialect has no such command."""


class BadOption(AdmsError):
    """A handshake option whose value would end its line early."""
