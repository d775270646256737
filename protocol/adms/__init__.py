"""The attendance dialect that terminals speak over HTTP: requests and records in, replies and command lines out.

Nothing here opens a socket or asks what time it is. Readers take bytes as they came and either return a frozen value or
raise an `AdmsError`; a line that makes no sense is a value too, because the terminal must not be kept waiting for it.
"""
