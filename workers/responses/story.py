"""A response's story: the entries of its frames, folded as they are read and as they are written.

Each entry is stored before what follows from it is relied on. So whoever goes on after a worker's
death finds the same state.
"""

from schemas.commands import RunInference
from schemas.history import History
from schemas.responses.fold import ResponseFold
from schemas.responses.story import Entry, encode_entry
from workers.responses.parts import Parts
from workers.runtime.writer import Writer


class Story:
    """What a response has come to, and where what comes next is written. Made by `recall`."""

    def __init__(self, run_id: str, writer: Writer) -> None:
        self.fold = ResponseFold(run_id)
        self.writer = writer
        self.deployment = ""  # of the last step that has ended

    def say(self, entry: Entry) -> None:
        """Write an entry, and fold it."""
        told = encode_entry(entry)
        self.writer.send([told])
        self.fold.feed(told)

    def hear(self, step: History) -> bool:
        """Fold the frames of the step that is at work; False if it has not ended."""
        commit = step.commit
        if commit is None:
            return False
        for chunk in step.chunks:
            self.fold.hear(chunk)
        self.fold.end_step(commit.status, commit.finish_reason, commit.usage)
        self.deployment = commit.deployment or self.deployment
        return True


async def recall(parts: Parts, job: RunInference, writer: Writer) -> Story:
    """Fold what was written before, with the frames of the steps that have ended.

    Raises BusError.
    """
    story = Story(job.run_id, writer)
    fold = story.fold
    for entry in writer.history.chunks:
        fold.feed(entry)
        if fold.step is not None:
            story.hear(await parts.read(job.edge, fold.step.run_id))
    return story
