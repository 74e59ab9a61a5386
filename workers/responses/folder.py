"""The folder in which a response's code runs: what was sent, and what earlier code has made."""

from collections.abc import Iterable
from typing import NamedTuple

from bus import ObjectStore
from schemas.api.history import to_messages
from schemas.api.hosted import MadeFile, Told
from schemas.commands import RunInference
from schemas.objects import artifact_name, container_of, find_artifact
from schemas.responses.chat import to_history
from schemas.responses.files import SentFile, files_in
from schemas.tool_options import MAX_FILES, MAX_FILES_BYTES, InputFile, is_file_path
from workers.responses.office import Asked


class _File(NamedTuple):
    size: int
    reference: str
    data: bytes | None = None  # what is not in the object store yet


class Folder:
    """The files of one response, each in the object store under its owner."""

    def __init__(self, objects: ObjectStore, job: RunInference, asked: Asked) -> None:
        self._objects = objects
        self._job = job
        self._asked = asked
        self._before: dict[str, _File] | None = None

    async def files(self, told: Iterable[Told]) -> list[InputFile]:
        """The newest files, one of each path, as many as there is room for.

        `told` is what earlier code of this response has made. Raises BusError.
        """
        if self._before is None:
            self._before = await self._keep()
        found = dict(self._before)
        for one in told:
            self._add_made(found, one.files)
        return [InputFile(name, file.reference) for name, file in _newest(found)]

    async def _keep(self) -> dict[str, _File]:
        """Gather what was there before the response; what was sent with it is stored now."""
        request, found = self._asked.request, dict[str, _File]()
        sent = files_in(to_history(request, ()))
        self._add_sent(found, 0, sent)
        self._add_made(found, request.prepared.files)
        self._add_sent(found, len(sent), files_in(to_messages(self._asked.input)))
        for _, file in _newest(found):
            if file.data is not None:
                await self._objects.put(file.reference, file.data)
        return {name: file._replace(data=None) for name, file in found.items()}

    def _add_sent(self, found: dict[str, _File], first: int, sent: Iterable[SentFile]) -> None:
        job = self._job
        container, unique = container_of(job.run_id), job.run_id.partition("_")[2]
        for number, file in enumerate(sent, first):
            reference = artifact_name(job.principal, container, unique, number)
            found.pop(file.name, None)
            found[file.name] = _File(len(file.data), reference, file.data)

    def _add_made(self, found: dict[str, _File], made: Iterable[MadeFile]) -> None:
        for file in made:
            reference = find_artifact(self._job.principal, file.container, file.id)
            if reference is not None and is_file_path(file.name):
                found.pop(file.name, None)
                found[file.name] = _File(file.bytes, reference)


def _newest(found: dict[str, _File]) -> list[tuple[str, _File]]:
    """As many of the newest as may be together in a folder, oldest first."""
    kept: list[tuple[str, _File]] = []
    room = MAX_FILES_BYTES
    for name, file in reversed(found.items()):
        room -= file.size
        if room < 0 or len(kept) == MAX_FILES:
            break
        kept.append((name, file))
    return kept[::-1]
