"""A response: steps of inference and calls of tools, until the model has answered.

Its life, from top to bottom, is `Response.generate`. Each stage has a file:

- `office.py`: what was asked,
- `story.py`: what has come of it so far, as its frames say,
- `opening.py`: what it begins with, its tools above all (`offers.py`, `listings.py`),
- `steps.py`: having the model say something, and `formats.py`: checking that,
- `answering.py`: having the tools called that it wants called (`calls.py`),
- `ending.py`: the end, and the early one; `room.py`: what of it is kept.

Steps and calls are its parts (`parts.py`): runs of their own, whose ids follow from their place. So
whoever goes on after a worker's death asks for the same parts again, which are there already.
"""

from schemas.commands import RunInference, decode_run_inference
from schemas.errors import InternalError, JanError
from schemas.history import History
from schemas.responses.story import Judged
from workers.responses.answering import Answering
from workers.responses.ending import end_early, find_end, wind_up
from workers.responses.formats import to_correction
from workers.responses.office import Office, read_asked
from workers.responses.opening import open_response
from workers.responses.room import has_room
from workers.responses.steps import Steps
from workers.responses.story import Story, recall
from workers.responses.webhooks import tell_webhook
from workers.runtime.delivery import Delivery
from workers.runtime.long_run import Ending, LongRun
from workers.runtime.writer import Writer


class Response(LongRun):
    """Carries one response out."""

    fruitless_limit = 12  # while it waits for a step or a call it adds nothing itself

    def __init__(self, office: Office, job: RunInference, delivery: Delivery) -> None:
        super().__init__(office.desk, job, delivery)
        self._office = office
        self._story: Story | None = None

    @property
    def fenced(self) -> bool:
        """Always: its entries are several messages."""
        return True

    async def generate(self, writer: Writer) -> Ending:
        """Go on from what the frames say, to the end."""
        office, job = self._office, self.job
        # Hear first: what ends while the frames are read would be missed.
        async with office.parts.mailbox(job.run_id) as mailbox:
            story = self._story = await recall(office.parts, job, writer)
            asked = await read_asked(office.objects, job)
            await open_response(office, job, asked, story, mailbox)
            steps = Steps(office, job, asked, story)
            answering = Answering(office, job, asked, story)
            fold, depth = story.fold, office.settings.response_depth
            while True:
                if fold.step is not None:
                    await steps.until_ended(fold.step, mailbox)
                elif fold.to_judge is not None:
                    story.say(Judged(await to_correction(asked.request, fold)))
                elif not has_room(fold, office.settings):
                    raise InternalError("the model and its tools have said too much")
                elif fold.pending:
                    await answering.answer(fold.pending, mailbox)
                elif (ending := find_end(asked.request, fold, depth)) is not None:
                    self.deployment = story.deployment or self.deployment
                    return ending
                else:
                    await steps.begin()

    async def to_ending(self, error: JanError, writer: Writer) -> Ending:
        """What ends it early: HTTP's status if nothing was said yet, else as responses have it."""
        story = self._story
        if story is None or story.writer is not writer:  # it has not come to that
            story = await recall(self._office.parts, self.job, writer)
        if story.fold.begun is None:
            return await super().to_ending(error, writer)
        await wind_up(self._office, self.job, story, error)
        self.deployment = story.deployment or self.deployment
        return end_early(story.fold, self._office.settings, error, self.job.request_id)

    async def follow_up(self, history: History) -> None:
        """Have its webhook sent, if it has one."""
        if self.job.webhook is not None:
            await tell_webhook(self._office.desk.bus, self.job, self.job.webhook, history)


def to_response(office: Office, delivery: Delivery) -> Response:
    """Read a job. Raises DecodeError."""
    return Response(office, decode_run_inference(delivery.data), delivery)
