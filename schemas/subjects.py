"""Every subject, stream and bucket name, built by functions: the only place with dots."""

import re
import zlib

JOBS = "JOBS"
COMMANDS = "COMMANDS"
EVENTS = "EVENTS"
TOKENS = "TOKENS"
CONTROL = "CONTROL"
DEAD = "DEAD"

KV_KEYS = "keys"
KV_MODELS = "models"
KV_HEALTH = "health"
KV_IDEMPOTENCY = "idempotency"
KV_LIMITS = "limits"
KV_SESSIONS = "sessions"
KV_POSITIONS = "positions"
KV_TOOLS = "tools"

CATALOGUE_KEY = "catalogue"
TOOL_KEYS = "tool."  # of the bucket `tools`: what a worker says of the tool of that name
SWITCH_KEYS = "switch."  # … and what an operator does
INTERACTIVE = "interactive"
BACKGROUND = "background"
REMOTE_POOL = "remote"
REPLAYS = "replay"  # in place of an edge's name, in the frames of runs that are run again

# Headers of messages that did not come into a stream in the usual way.
ERROR = "Jan-Error"  # of a dead one: why it is
IMPORTED = "Jan-Imported"  # of a fact that happened on another server
TIME = "Jan-Time"  # … when that one stored it, in unix seconds
EXPORTED_SEQ = "Jan-Seq"  # … and under which sequence
EXPORT = "Jan-Export"  # … and which export it came from

SHARDS = 1024  # 10 bits: an id per subject would cost the server 0.5 KiB of memory each


def imported_headers(at: float) -> bytes:
    """The header lines of a fact that another server stored at `at`."""
    return f"{IMPORTED}: 1\r\n{TIME}: {at!r}\r\n".encode()


def shard(run_id: str) -> int:
    """Which of the log's 1024 shards a run's events are in."""
    return zlib.crc32(run_id.encode()) & (SHARDS - 1)


def slug(name: str) -> str:
    """Make a name safe as one token of a subject: lower-case letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def inference_job(pool: str, priority: str) -> str:
    """Where a job for a pool's workers waits; `priority` is `interactive` or `background`."""
    return f"jobs.inference.{pool}.{priority}"


def inference_consumer(pool: str, priority: str) -> str:
    """The durable consumer of JOBS that a pool's workers pull from."""
    return f"inference-{pool}-{priority}"


def response_job(priority: str) -> str:
    """Where a response waits for a worker of the loop."""
    return f"jobs.responses.{priority}"


def response_consumer(priority: str) -> str:
    """The durable consumer of JOBS that the loop's workers pull from."""
    return f"responses-{priority}"


def tool_job(queue: str) -> str:
    """Where a call of a tool waits."""
    return f"jobs.tools.{queue}"


def tool_consumer(queue: str) -> str:
    """The durable consumer of JOBS that the workers of a tool pull from."""
    return f"tools-{queue}"


def tool_event(verb: str, call_id: str, parent: str) -> str:
    """Where a fact about a call is logged: in the shard of the run that it is a part of."""
    return f"events.tool.{verb}.{shard(parent or call_id)}"


def words(run_id: str) -> str:
    """Where the parts of a run tell it how far they are."""
    return f"words.{run_id}"


ALL_WORDS = "words.*"


def run_event(verb: str, run_id: str) -> str:
    """Where a fact about a run is logged, e.g. `events.run.finished.17`."""
    return f"events.run.{verb}.{shard(run_id)}"


def state_event(noun: str, verb: str, entity: str) -> str:
    """Where a change of stored state is logged, e.g. `events.conversation.created.17`."""
    return f"events.{noun}.{verb}.{shard(entity)}"


def erased_event(verb: str, run_id: str) -> str:
    """Where a run's fact is told once more, without what was said, as that was erased."""
    return f"events.erased.{verb}.{shard(run_id)}"


def replay_event(verb: str, run_id: str) -> str:
    """Where a fact about a replay is logged: apart, so that nothing is stored of it."""
    return f"events.replay.{verb}.{shard(run_id)}"


def event_shard(run_id: str) -> str:
    """Filter for all events in the shard of a run."""
    return f"events.*.*.{shard(run_id)}"


def frames(edge: str, run_id: str) -> str:
    """Where a run's frames are stored; `edge` is the one that accepted it."""
    return f"frames.{edge}.{run_id}"


def frames_anywhere(run_id: str) -> str:
    """A run's frames, whichever edge accepted it."""
    return f"frames.*.{run_id}"


def live_of_edge(edge: str) -> str:
    """The stored frames of all runs of one edge, as the server republishes them."""
    return f"live.{edge}.>"


def live_anywhere(run_id: str) -> str:
    """The republished frames of one run, whichever edge accepted it."""
    return f"live.*.{run_id}"


def cancel(run_id: str) -> str:
    """Where a request to cancel a run is told."""
    return f"control.cancel.{run_id}"


ALL_CANCELS = "control.cancel.*"


def edge_alive(edge: str) -> str:
    """Where an edge is asked which of some runs it still has readers for."""
    return f"edges.{edge}.alive"


ALL_EDGES_ALIVE = "edges.*.alive"
CALLED_OFF = "edges.all.called_off"  # the edge that waits for this call shall cancel it


def command(noun: str, verb: str) -> str:
    """Where a durable write waits."""
    return f"commands.{noun}.{verb}"


def query(noun: str, verb: str) -> str:
    """Where a read is asked; a queue group of persistence workers answers."""
    return f"query.{noun}.{verb}"


def dead(stream: str, subject: str) -> str:
    """Where a message goes that no worker could handle."""
    return f"dead.{stream.lower()}.{subject}"


def buried(subject: str) -> tuple[str, str]:
    """Which stream and which subject a dead message comes from: `EVENTS`, `events.…`."""
    _, stream, was = subject.split(".", 2)
    return stream.upper(), was


def retried(seq: int) -> str:
    """Where it is noted that the dead message with this sequence was sent again."""
    return f"{_RETRIED}.{seq}"


def is_retried(subject: str) -> bool:
    """Tell a note in DEAD from a dead message."""
    return subject.startswith(f"{_RETRIED}.")


_RETRIED = "dead.retried"
ALL_RETRIED = f"{_RETRIED}.*"


def last_token(subject: bytes) -> bytes:
    """The last token of a subject: a run's id in frames, live and control."""
    return subject[subject.rfind(b".") + 1 :]
