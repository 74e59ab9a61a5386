"""Work that strangers' input may draw out for ever, in a process of its own that can be stopped.

A parser may take all time or all memory: here it costs that one process.
"""

import asyncio
import multiprocessing
import resource
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final, TypeVar

T = TypeVar("T")

_MEMORY: Final = 1 << 30
_PATIENCE: Final = 2  # times the processor's seconds: on a busy machine they take longer

# Children are forked from a process without connections, which has loaded what they need: that
# takes a second.
_context = multiprocessing.get_context("forkserver")


def preload(*modules: str) -> None:
    """Have modules loaded before the first child is made."""
    _context.set_forkserver_preload(["__main__", *modules])


async def apart(seconds: int, work: Callable[..., T], *arguments: Any) -> T:
    """Do a function's work in a child; all of it must pickle. It can write no files.

    Raises TimeoutError if it takes more than `seconds` of a processor's time, or the child ends
    otherwise: for want of memory, say. A child of which nobody waits any more is killed.
    """
    receiver, sender = _context.Pipe(duplex=False)
    process = _context.Process(target=_do, args=(sender, seconds, work, arguments), daemon=True)
    try:
        await asyncio.to_thread(process.start)
        sender.close()
        found: T = await asyncio.wait_for(_receive(receiver), seconds * _PATIENCE)
        return found
    except (EOFError, OSError) as error:
        raise TimeoutError from error
    finally:
        if process.pid is not None:
            process.kill()
            await asyncio.to_thread(process.join, 5.0)
        receiver.close()


async def _receive(receiver: Connection) -> Any:
    """Wait for the child's word, or for its end."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(receiver.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(receiver.fileno())
    return await asyncio.to_thread(receiver.recv)


def _do(
    sender: Connection, seconds: int, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    """The child: limits first."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    sender.send(work(*arguments))
