"""Files that tools have made: found by their ids, each for its owner alone."""

import re
from typing import Final

from bus import ObjectStore
from schemas.errors import NotFound
from schemas.ids import is_unique_part
from schemas.objects import artifact_name

_FILE: Final = re.compile(r"cfile_([0-9a-z]{26})_(\d{1,3})")


async def read_artifact(
    objects: ObjectStore, principal: str, container: str, file_id: str
) -> bytes:
    """What is in a file of a principal's. Raises NotFound."""
    match = _FILE.fullmatch(file_id)
    known = container.startswith("cntr_") and is_unique_part(container.removeprefix("cntr_"))
    if match is None or not known:
        raise NotFound("there is no such file")
    name = artifact_name(principal, container, match[1], int(match[2]))
    try:
        return await objects.get(name)
    except NotFound:
        raise NotFound("there is no such file") from None
