"""Run as a process: a simulated answer with a cue to die, printed chunk by chunk.

The argument says how many chunks an earlier attempt has already sent.
"""

import asyncio
import sys
from collections.abc import Sequence

from schemas.providers import SimulatedOptions, SimulatedProvider
from tests.engines.conftest import MODELS
from tests.engines.jobs import Collector, chat, make_job
from workers.inference.engines.simulated import SimulatedEngine
from workers.inference.engines.simulation.answers import answer_chat
from workers.inference.engines.simulation.chunks import to_steps


class _Printer(Collector):
    def send(self, chunks: Sequence[bytes], state: bytes = b"") -> None:  # noqa: ARG002
        for chunk in chunks:
            print(chunk.decode(), flush=True)

    async def drain(self) -> None:
        """What is printed is out."""


async def _run(captured: int) -> None:
    options = SimulatedOptions(ttft_ms=0, token_ms=0, cues=True)
    engine = SimulatedEngine(
        SimulatedProvider(name="s", kind="simulated", models=MODELS, options=options)
    )
    job = make_job(chat("!tokens 12\n!die 6"))
    steps = to_steps(job, answer_chat(job.body, 0, None, True))
    chunks = [chunk for step in steps for chunk in step]
    job = make_job(chat("!tokens 12\n!die 6"), captured=chunks[:captured])
    await engine.generate(job, _Printer())


if __name__ == "__main__":
    asyncio.run(_run(int(sys.argv[1])))
