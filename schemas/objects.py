"""Where things lie in the object store: for those who write them and those who erase them."""

import hashlib
from typing import Final

REQUESTS: Final = "requests"  # the folder for requests too large for the bus
EXPORTS: Final = "exports"


def request_name(run_id: str) -> str:
    """Where a run's request lies as the client sent it."""
    return f"{REQUESTS}/{run_id}"


def resolved_name(run_id: str) -> str:
    """Where it lies with what it refers to in its place."""
    return f"{REQUESTS}/{run_id}.resolved"


def exports_of(principal: str) -> str:
    """What the names of all exports of a principal begin with, in their folder."""
    return f"{hashlib.sha256(principal.encode()).hexdigest()[:32]}."
