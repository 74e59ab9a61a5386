"""How loaded vLLM is, and how many sequences it has room for."""

from collections import deque

_FULL = 0.95  # part of the KV cache that is given away
_REMEMBERED = 32  # sequences


class Load:
    """What vLLM's engines last said of themselves, and how long sequences were that have ended.

    Several engines are of data parallelism; they share the runs evenly.
    """

    def __init__(self) -> None:
        self._most = 0
        self._capacity: int | None = None
        self._block = 1
        self._lengths: deque[int] = deque(maxlen=_REMEMBERED)
        self._waiting: dict[int, int] = {}
        self._caches: dict[int, float] = {}

    def begin(self, most: int, longest: int, capacity: int | None, block: int) -> None:
        """Note how many sequences there may be, and in tokens how long one is and what all hold.

        The cache is given out in blocks. The longest sequences are expected, until shorter ones
        have ended. Without a capacity only vLLM's own queue tells when it is full.
        """
        self._most = most
        self._capacity = capacity
        self._block = block
        self.ended(longest)

    def said(self, engine: int, waiting: int, cache: float) -> None:
        """Note how many requests wait in an engine, and which part of its KV cache is in use."""
        self._waiting[engine] = waiting
        self._caches[engine] = cache

    def ended(self, length: int) -> None:
        """Learn from a sequence that has ended: prompt and answer had this many tokens."""
        self._lengths.append(-(-length // self._block) * self._block)

    def limit(self, running: int) -> int:
        """How many sequences to have at all, those that run included.

        Each is given the place of a whole one of the usual length. None more than run are asked for
        while some wait, or while those that run take up more than was given to them.
        """
        if not running:  # what was said last is of runs that are gone
            return min(self._most, max(1, self._places(0)))
        if any(self._waiting.values()):
            return running
        cache = sum(self._caches.values()) / max(1, len(self._caches))
        return min(self._most, running + self._places(running, cache))

    def _places(self, running: int, cache: float = 0.0) -> int:
        """How many more sequences of the usual length the KV cache has room for."""
        if self._capacity is None:
            return self._most if cache <= _FULL else 0
        usual = max(1.0, sum(self._lengths) / len(self._lengths))
        taken = max(cache * self._capacity, running * usual)
        return max(0, int((self._capacity * _FULL - taken) // usual))
