"""How far a long verb has come: a line on stderr every other second."""

import sys
import time

_EVERY = 2.0


class Progress:
    """Counts. `total` (0: not known) is what `done` of a step goes up to."""

    def __init__(self, what: str, total: int = 0) -> None:
        self._what = what
        self._total = total
        self._began = self._told = time.monotonic()

    def step(self, count: int, done: int) -> None:
        """Note how many there were so far."""
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            share = f", {done / self._total:.0%} of the log" if self._total > 0 else ""
            print(f"jan: {count:,} {self._what}{share}", file=sys.stderr)

    def end(self, count: int) -> None:
        """Say how it ended."""
        took = time.monotonic() - self._began
        print(f"jan: {count:,} {self._what}, in {took:.1f} s", file=sys.stderr)
