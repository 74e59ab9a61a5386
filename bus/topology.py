"""Streams, buckets and consumers: what the files of `nats/` say, brought to the server.

The files are the bodies of the server's own API and pass through as they are. Nothing is ever
deleted, and nothing is changed in a way that would lose stored messages.
"""

import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError

from schemas import subjects
from schemas.catalogue import Catalogue, Model, decode_catalogue
from schemas.providers import Discovered, Providers, to_catalogue

VERSION_KEY = "jan.topology"
MINIMUM_SERVER = (2, 11)  # direct gets of many messages, and a TTL for each message

_TIMEOUT = 5.0
_NOT_FOUND = 404
_CATALOGUE = f"$KV.{subjects.KV_MODELS}.{subjects.CATALOGUE_KEY}"
_LOSING = ("max_age", "max_bytes", "max_msgs", "max_msgs_per_subject")  # 0 or less: no limit


class TopologyError(Exception):
    """The server can't be brought to what the files say; one line that says why."""


class Difference(NamedTuple):
    """One field, as it is on the server (None: absent) and as it is to be."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """One step to take, with the request that takes it."""

    action: Literal["create", "update"]
    what: str
    differences: tuple[Difference, ...]
    subject: str
    payload: bytes
    headers: dict[str, str] | None = None

    def __str__(self) -> str:
        lines = [f"{self.action} {self.what}"]
        for field, before, after in self.differences:
            lines.append(f"    {field}: {_shown(before)} -> {_shown(after)}")
        return "\n".join(lines)


async def plan(
    nc: Client, folder: Path, providers: Providers, discovered: Discovered | None = None
) -> list[Change]:
    """Find what differs from the files, in the order in which to change it.

    `discovered` names the models that providers have themselves; of one that is not in it, those
    that the catalogue knows stay. The catalogue comes last: it admits a pool only when the pool's
    consumers are there. Raises TopologyError also for what may not be changed, so that a refusal
    leaves everything as it was.
    """
    await _check_server(nc)
    changes: list[Change] = []
    for stream in _streams(folder):
        changes += await _plan_stream(nc, stream)
    for consumer in _consumers(folder, providers.pools()):
        changes += await _plan_consumer(nc, consumer)
    return changes + await _plan_catalogue(nc, providers, discovered)


async def apply(
    nc: Client, folder: Path, providers: Providers, discovered: Discovered | None = None
) -> list[Change]:
    """Bring the server to what the files say, and return what was changed. Idempotent."""
    changes = await plan(nc, folder, providers, discovered)
    for change in changes:
        answer = await _ask(nc, change.subject, change.payload, change.headers)
        if error := answer.get("error"):
            raise TopologyError(f"can't {change.action} {change.what}: {error['description']}")
    return changes


async def _check_server(nc: Client) -> None:
    version = nc.connected_server_version
    if (version.major, version.minor) < MINIMUM_SERVER:
        needed = ".".join(map(str, MINIMUM_SERVER))
        have = f"{version.major}.{version.minor}.{version.patch}"
        raise TopologyError(f"nats-server {have} is too old: {needed} or newer is needed")
    answer = await _ask(nc, "$JS.API.INFO")
    if error := answer.get("error"):
        raise TopologyError(f"JetStream can't be used: {error['description']}")


def _streams(folder: Path) -> Iterator[dict[str, Any]]:
    for kind in ("streams", "kv"):
        for file in sorted((folder / kind).glob("*.json")):
            yield _read(file, file.read_text())


def _consumers(folder: Path, pools: list[str]) -> Iterator[dict[str, Any]]:
    for file in sorted((folder / "consumers").glob("*.json")):
        text = file.read_text()
        each_pool = pools if "${pool}" in text else [""]
        classes = (subjects.INTERACTIVE, subjects.BACKGROUND) if "${class}" in text else ("",)
        for pool, name in itertools.product(each_pool, classes):
            yield _read(file, text.replace("${pool}", pool).replace("${class}", name))


def _read(file: Path, text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise TopologyError(f"{file}: not a JSON object: {error}") from None


async def _plan_stream(nc: Client, wanted: dict[str, Any]) -> list[Change]:
    name = wanted["name"]
    what = f"stream {name}"
    answer = await _info(nc, f"$JS.API.STREAM.INFO.{name}", what)
    if answer is None:
        return [Change("create", what, (), f"$JS.API.STREAM.CREATE.{name}", _encode(wanted))]
    current = answer["config"]
    _refuse_newer(what, current, wanted)
    differences = _compare(current, wanted)
    if not differences:
        return []
    await _refuse_loss(nc, answer, wanted)
    merged = _encode(_merge(current, wanted))
    return [Change("update", what, differences, f"$JS.API.STREAM.UPDATE.{name}", merged)]


async def _plan_consumer(nc: Client, wanted: dict[str, Any]) -> list[Change]:
    stream, config = wanted["stream_name"], wanted["config"]
    what = f"consumer {config['name']} of {stream}"
    target = f"{stream}.{config['name']}"
    # The filter is in the subject too, where the server takes one filter only.
    suffix = f".{config['filter_subject']}" if config.get("filter_subject") else ""
    subject = f"$JS.API.CONSUMER.CREATE.{target}{suffix}"
    answer = await _info(nc, f"$JS.API.CONSUMER.INFO.{target}", what)
    if answer is None:
        return [Change("create", what, (), subject, _encode(wanted))]
    current = answer["config"]
    _refuse_newer(what, current, config)
    differences = _compare(current, config)
    if not differences:
        return []
    merged = _encode(wanted | {"config": _merge(current, config), "action": "update"})
    return [Change("update", what, differences, subject, merged)]


async def _plan_catalogue(
    nc: Client, providers: Providers, discovered: Discovered | None
) -> list[Change]:
    known, revision = await _known_catalogue(nc)
    wanted = to_catalogue(providers, int(time.time()), known, discovered)
    if known == wanted:
        return []
    before = {model.id: model for model in known.models} if known else {}
    after = {model.id: model for model in wanted.models}
    differences = tuple(
        Difference(model_id, _deployments(before.get(model_id)), _deployments(after.get(model_id)))
        for model_id in dict.fromkeys([*before, *after])
        if before.get(model_id) != after.get(model_id)
    )
    # Two migrations at once: the later one sees that it knew an older catalogue.
    headers = {"Nats-Expected-Last-Subject-Sequence": str(revision)}
    action: Literal["create", "update"] = "update" if known else "create"
    payload = msgspec.json.encode(wanted)
    return [Change(action, "catalogue of models", differences, _CATALOGUE, payload, headers)]


async def _known_catalogue(nc: Client) -> tuple[Catalogue | None, int]:
    """Read the catalogue and its revision; None and 0 before the first."""
    subject = f"$JS.API.DIRECT.GET.KV_{subjects.KV_MODELS}"
    try:
        message = await nc.request(subject, _encode({"last_by_subj": _CATALOGUE}), timeout=_TIMEOUT)
    except NoRespondersError:  # the bucket is still to be made
        return None, 0
    headers = message.headers or {}
    if "Nats-Sequence" not in headers:
        return None, 0
    revision = int(headers["Nats-Sequence"])
    try:
        return decode_catalogue(message.data), revision
    except msgspec.DecodeError:  # deleted by hand, or unreadable: written anew
        return None, revision


def _refuse_newer(what: str, current: dict[str, Any], wanted: dict[str, Any]) -> None:
    there, ours = _version(current), _version(wanted)
    if there > ours:
        raise TopologyError(
            f"{what} was made by a newer release (topology {there}, this one has {ours}): "
            "upgrade this installation instead"
        )


def _version(config: dict[str, Any]) -> int:
    text = (config.get("metadata") or {}).get(VERSION_KEY, "")
    return int(text) if text.isdecimal() else 0


def _compare(current: dict[str, Any], wanted: dict[str, Any]) -> tuple[Difference, ...]:
    """Compare the fields that the file names; of metadata, the entries that it names."""
    found = []
    for field, after in wanted.items():
        before = current.get(field)
        if field == "metadata":
            before = {key: (before or {}).get(key) for key in after}
        # The server leaves out what is false, zero or empty.
        if before != after and (before or after):
            found.append(Difference(field, before, after))
    return tuple(found)


def _merge(current: dict[str, Any], wanted: dict[str, Any]) -> dict[str, Any]:
    """Put the file's fields over the server's: what the file does not name stays."""
    metadata = (current.get("metadata") or {}) | (wanted.get("metadata") or {})
    return current | wanted | ({"metadata": metadata} if metadata else {})


async def _refuse_loss(nc: Client, info: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse a smaller limit that messages in the stream already exceed."""
    current, state = info["config"], info["state"]
    for field in _LOSING:
        before, after = current.get(field) or 0, wanted.get(field, current.get(field)) or 0
        if after <= 0 or (0 < before <= after) or not state["messages"]:
            continue
        held = await _held(nc, field, wanted["name"], state)
        if held > after:
            raise TopologyError(
                f"stream {wanted['name']}: {field} {after} would delete messages "
                f"(the stream has {held}): wait or empty it first"
            )


async def _held(nc: Client, field: str, stream: str, state: dict[str, Any]) -> int:
    """How much of a limit a stream's messages use now, in the limit's own unit."""
    match field:
        case "max_bytes":
            return int(state["bytes"])
        case "max_age":
            first = datetime.fromisoformat(state["first_ts"][:19] + "+00:00")
            return int((time.time() - first.timestamp()) * 1e9)
        case "max_msgs_per_subject":
            return await _most_in_a_subject(nc, stream)
        case _:
            return int(state["messages"])


async def _most_in_a_subject(nc: Client, stream: str) -> int:
    most = offset = 0
    while True:
        query = _encode({"subjects_filter": ">", "offset": offset})
        state = (await _ask(nc, f"$JS.API.STREAM.INFO.{stream}", query)).get("state", {})
        counts: dict[str, int] = state.get("subjects") or {}
        most, offset = max([most, *counts.values()]), offset + len(counts)
        if not counts or offset >= state.get("num_subjects", 0):
            return most


async def _info(nc: Client, subject: str, what: str) -> dict[str, Any] | None:
    """Ask for a stream's or a consumer's configuration; None if there is none."""
    answer = await _ask(nc, subject)
    error = answer.get("error")
    if error is None:
        return answer
    if error["code"] == _NOT_FOUND:
        return None
    raise TopologyError(f"can't read {what}: {error['description']}")


async def _ask(
    nc: Client, subject: str, payload: bytes = b"", headers: dict[str, str] | None = None
) -> dict[str, Any]:
    try:
        answer = await nc.request(subject, payload, timeout=_TIMEOUT, headers=headers)
    except NoRespondersError:
        raise TopologyError("JetStream is off on this nats-server") from None
    except (NatsError, TimeoutError) as error:
        raise TopologyError(
            f"no answer to {subject} ({error}): is NATS up, and is this its user migrate?"
        ) from None
    return dict(json.loads(answer.data))


def _deployments(model: Model | None) -> list[str] | None:
    return None if model is None else [deployment.id for deployment in model.deployments]


def _encode(value: dict[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _shown(value: Any) -> str:
    return "(none)" if value is None else json.dumps(value)
