"""What stops a verb: one line for the person, and an exit code that says whose move it is.

Exit 1
├── BadSetup 2        an option, a setting or the data directory must change
├── PortInUse 3       somebody else listens there
└── MissingBinary 4   nats-server or PostgreSQL is not installed
"""

from typing import ClassVar


class Exit(Exception):
    """The verb can't go on; `str(exit)` is the one line that is shown."""

    code: ClassVar[int] = 1


class BadSetup(Exit):
    """An option, a setting or the data directory must change first."""

    code = 2


class PortInUse(Exit):
    """Somebody else listens on the port."""

    code = 3


class MissingBinary(Exit):
    """A server's program is not installed."""

    code = 4


def exit_of(code: int, message: str) -> Exit:
    """Make the exit that a child process's own exit code stands for."""
    for kind in (BadSetup, PortInUse, MissingBinary):
        if kind.code == code:
            return kind(message)
    return Exit(message)
