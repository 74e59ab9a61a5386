"""Files that tools have made: found by their ids, each for its owner alone."""

from bus import ObjectStore
from schemas.errors import NotFound
from schemas.objects import find_artifact


async def read_artifact(
    objects: ObjectStore, principal: str, container: str, file_id: str
) -> bytes:
    """What is in a file of a principal's. Raises NotFound."""
    missing = NotFound("there is no such file")
    name = find_artifact(principal, container, file_id)
    if name is None:
        raise missing
    try:
        return await objects.get(name)
    except NotFound:
        raise missing from None
