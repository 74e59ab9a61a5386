"""A replay: the job that runs a recorded request again, in a sandbox. Pure functions.

It is a run of its own, whose frames lie under `frames.replay.<run>` and whose facts are told as
`events.replay.…`: no row is made of it, and nothing is counted as used.
"""

import time
from typing import Any

import msgspec

from schemas import subjects
from schemas.api.chat import decode_request
from schemas.api.needs import Needs, needs_of, needs_of_response
from schemas.catalogue import Catalogue
from schemas.commands import RunInference, Target
from schemas.errors import Gone, InvalidRequest, ModelNotFound
from schemas.responses.prepared import decode_prepared, input_items

NOT_RECORDED = "the log does not hold its request: not recorded (JAN_LOG_CONTENT), or erased"
REFERRING = "its request refers to a prompt or a conversation, and the log does not say what it was"
EXPIRED = "its request was too large for the log, and is no longer in the object store"


_REFERENCES = (b'"prompt"', b'"conversation"')


class _Referring(msgspec.Struct):
    prompt: Any = None
    conversation: Any = None


def to_job(
    command: RunInference,
    run_id: str,
    *,
    model: str,
    targets: list[Target],
    deadline: float,
    request_id: str,
) -> RunInference:
    """Make the job that runs a recorded one again; the request, with its seed, stays as it is."""
    now = time.time()
    return msgspec.structs.replace(
        command,
        run_id=run_id,
        edge=subjects.REPLAYS,
        model=model,
        targets=targets,
        created=int(now),
        deadline=now + deadline,
        request_id=request_id,
        background=True,  # behind whoever waits for an answer; and no edge is asked for its readers
        moves=0,
        turn=None,
        sources=None,
        store=False,
        webhook=None,
        replay_of=command.run_id,
    )


def require_recorded(command: RunInference) -> None:
    """Refuse a run of which the log does not hold the request. Raises Gone."""
    unsaid = command.request is None and command.request_ref is None
    if unsaid or command.content != "full":
        raise Gone(NOT_RECORDED, code="request_not_recorded")


def require_whole(command: RunInference, request: bytes) -> None:
    """Refuse a request that refers to what the log says nothing of: an old one. Raises Gone.

    A replay of the reference would be another request, and its difference would say nothing.
    """
    if command.kind != "chat" or not any(mark in request for mark in _REFERENCES):
        return
    try:
        found = msgspec.json.decode(request, type=_Referring)
    except msgspec.DecodeError:
        return
    if isinstance(found.prompt, dict) or found.conversation is not None:
        raise Gone(REFERRING, code="request_not_recorded")


def needs_of_replay(command: RunInference, request: bytes) -> Needs:
    """What a deployment must be able to do for a recorded request; nothing if it can't be told."""
    if command.kind not in ("chat", "count", "response"):
        return {}
    try:
        if command.kind == "response":
            asked = decode_prepared(request)
            items = input_items(asked, command.run_id, asked.prepared.referred)
            return needs_of_response(asked, [*asked.prepared.context, *items])
        return needs_of(decode_request(request))
    except InvalidRequest:
        return {}  # a chat made of a request in another form, or taken by an older release


def target_of(catalogue: Catalogue, deployment: str, model: str) -> tuple[str, Target]:
    """Find a deployment, and the model that it serves: `model` if it is one of several.

    Raises ModelNotFound.
    """
    serving = [
        (found.id, Target(one.id, one.pool))
        for found in catalogue.models
        for one in found.deployments
        if one.id == deployment
    ]
    if not serving:
        raise ModelNotFound(f"the deployment {deployment!r} does not exist", param="deployment")
    return next((found for found in serving if found[0] == model), serving[0])
