"""While the server runs: follow the providers file, and ask providers for their models again."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from cli.exits import Exit
from cli.logs import Logs
from schemas.providers import Providers
from workers.inference.reload import ProvidersFile

_TICK = 1.0


async def follow(
    path: Path, known: Providers, migrate: Callable[[], Awaitable[None]], logs: Logs
) -> None:
    """Migrate whenever the file has changed for the better, and as often as discovery asks for.

    The inference workers follow the file by themselves; what they can't do is to make the queues of
    new pools and to write the catalogue. Runs until it is cancelled.
    """
    served = [known]

    async def use(providers: Providers) -> None:
        try:
            await migrate()
        except Exit as exit:
            logs.say(f"the providers file has changed, but {exit}", level="error")
        else:
            served[0] = providers
            logs.say("the providers file has changed: its models are served", file=str(path))

    def complain(error: str) -> None:
        logs.say(f"{error}: the providers stay as they were", level="error")

    file = ProvidersFile(path, known, use, complain)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(file.run())
        tasks.create_task(_discover(lambda: served[0], migrate, logs))


async def _discover(
    served: Callable[[], Providers], migrate: Callable[[], Awaitable[None]], logs: Logs
) -> None:
    """Have the catalogue name the models that providers have now, as often as they want it."""
    waited = 0.0
    while True:
        await asyncio.sleep(_TICK)
        waited += _TICK
        every = _interval(served())
        if every is not None and waited >= every:
            waited = 0.0
            await _discover_again(migrate, logs)


async def _discover_again(migrate: Callable[[], Awaitable[None]], logs: Logs) -> None:
    try:
        await migrate()
    except Exit as exit:
        logs.say(f"models were not looked for again: {exit}", level="warning")


def _interval(providers: Providers) -> float | None:
    """How often to ask for models: as often as the most eager provider says; None: never."""
    asked = [provider.discover.every_s for provider in providers.providers if provider.discover]
    wanted = [every for every in asked if every]
    return min(wanted) if wanted else None
