"""The messages between processes: what older and newer releases may rely on.

Each sample in tests/unit/messages is as it lies on the bus. A field may be added, with a default;
a sample that no longer round-trips is a change that a running server would not survive.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from schemas import catalogue, commands, events, health, keys, tools, webhooks

SAMPLES = sorted((Path(__file__).parent / "messages").glob("*.json"))
MODULES = (commands, events, catalogue, keys, health, tools, webhooks)
PARTS = {
    "Target",
    "Attempt",
    "Deployment",
    "Model",
    "KeyLimits",
    "Figures",
    "Probe",
    "Turn",
    "Sources",
    "UsedPrompt",
    "UsedHistory",
    "Webhook",
    "Citation",
    "Artifact",
    "ToolProblem",
    "Progress",
}  # of messages, not sent alone


def message_types() -> dict[str, type[msgspec.Struct]]:
    """Every message that the schemas declare."""
    return {
        name: found
        for module in MODULES
        for name, found in vars(module).items()
        if isinstance(found, type)
        and issubclass(found, msgspec.Struct)
        and found.__module__ == module.__name__
        and name not in PARTS
    }


def test_every_message_has_a_sample() -> None:
    assert {sample.stem for sample in SAMPLES} == set(message_types())


def read_and_told_again(kind: type[msgspec.Struct], data: bytes) -> Any:
    return unversioned(json.loads(msgspec.json.encode(msgspec.json.decode(data, type=kind))))


def unversioned(told: Any) -> Any:
    """Leave the first version out, as writers may: readers take it for granted."""
    if isinstance(told, dict):
        return {
            name: unversioned(value) for name, value in told.items() if (name, value) != ("v", 1)
        }
    return told


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_a_message_round_trips(sample: Path) -> None:
    kind = message_types()[sample.stem]
    told = unversioned(json.loads(sample.read_bytes()))
    assert read_and_told_again(kind, sample.read_bytes()) == told


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.stem)
def test_a_field_of_a_newer_release_is_ignored(sample: Path) -> None:
    kind = message_types()[sample.stem]
    told = json.loads(sample.read_bytes())
    newer = json.dumps(told | {"added_later": {"deep": [1]}}).encode()
    assert read_and_told_again(kind, newer) == unversioned(told)


def test_the_clients_json_is_carried_byte_for_byte() -> None:
    body = b'{ "model":"m",\n  "messages": [], "odd": 1.0e2 }'
    template = commands.decode_run_inference(
        (Path(__file__).parent / "messages/RunInference.json").read_bytes()
    )
    job = commands.encode(msgspec.structs.replace(template, request=msgspec.Raw(body)))
    assert body in job
    accepted = events.decode_run_accepted(events.encode_run_accepted(job, 1.5))
    assert bytes(accepted.command.request or b"") == body
