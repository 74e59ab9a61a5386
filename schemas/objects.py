"""Where things lie in the object store: for those who write them and those who erase them."""

import hashlib
import re
from typing import Final

from schemas.ids import is_unique_part

REQUESTS: Final = "requests"  # the folder for requests too large for the bus
EXPORTS: Final = "exports"
ARTIFACTS: Final = "artifacts"  # files that tools made

_FILE: Final = re.compile(r"cfile_([0-9a-z]{26})_(\d{1,3})")


def request_name(run_id: str) -> str:
    """Where a run's request lies as the client sent it."""
    return f"{REQUESTS}/{run_id}"


def resolved_name(run_id: str) -> str:
    """Where it lies with what it refers to in its place."""
    return f"{REQUESTS}/{run_id}.resolved"


def exports_of(principal: str) -> str:
    """What the names of all exports of a principal begin with, in their folder."""
    return f"{_owner(principal)}."


def container_of(run_id: str) -> str:
    """The container that the calls of a run, or a call by itself, put their files into."""
    return f"cntr_{run_id.partition('_')[2]}"


def response_of(container: str) -> str:
    """The response whose container has this id; of what is no such id nothing is."""
    return f"resp_{container.removeprefix('cntr_')}"


def artifact_id(call_id: str, number: int) -> str:
    """The id of the so-manieth file of a call."""
    return f"cfile_{call_id.partition('_')[2]}_{number}"


def artifact_name(principal: str, container: str, call: str, number: int) -> str:
    """Where a principal's file lies; `call` is the unique part of the call's id."""
    return f"{ARTIFACTS}/{_owner(principal)}.{container}.{call}.{number}"


def find_artifact(principal: str, container: str, file_id: str) -> str | None:
    """Where a principal's file of this id would lie; None if no file can have it."""
    match = _FILE.fullmatch(file_id)
    known = container.startswith("cntr_") and is_unique_part(container.removeprefix("cntr_"))
    if match is None or not known:
        return None
    return artifact_name(principal, container, match[1], int(match[2]))


def _owner(principal: str) -> str:
    return hashlib.sha256(principal.encode()).hexdigest()[:32]
