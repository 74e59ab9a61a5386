"""`jan replay` and POST /v1/runs/{id}/replay: the same server, the real CLI, the real SDK."""

import asyncio
import json
import re
import subprocess
from typing import Any

import httpx
import openai
import pytest

from bus import open_bus
from cli.launch import LaunchedServer
from schemas import ids, subjects
from schemas.commands import encode
from schemas.errors import NotFound
from schemas.queries import decode_answer
from schemas.queries.runs import AskRun, AskRuns, RunFacts, RunList
from tests.acceptance.conftest import SCRIPTED, SIMULATED
from tests.support.server import eventually, http_client, openai_client

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                "required": ["city", "days"],
            },
        },
    }
]


def streamed(client: openai.OpenAI, text: str, **options: Any) -> str:
    """Stream a chat to its end; returns the completion's id."""
    chunks = list(
        client.chat.completions.create(
            model=SIMULATED,
            messages=[{"role": "user", "content": text}],
            stream=True,
            **options,
        )
    )
    return str(chunks[0].id)


def replay(server: LaunchedServer, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return server.jan("replay", *arguments, timeout=60)


def report(server: LaunchedServer, *arguments: str) -> tuple[int, Any]:
    done = replay(server, *arguments, "--json")
    assert done.stdout, done.stderr.decode()
    return done.returncode, json.loads(done.stdout)


def asked(server: LaunchedServer, verb: str, question: AskRun | AskRuns, kind: Any) -> Any:
    async def ask() -> bytes:
        async with open_bus(server.state.nats_url("cli"), name="test") as bus:
            return await bus.ask(subjects.query("runs", verb), encode(question), timeout=5)

    return decode_answer(asyncio.run(ask()), kind)


@pytest.mark.requirement("runs.replay")
def test_a_streamed_run_with_tools_replays_identically(
    server: LaunchedServer, client: openai.OpenAI
) -> None:
    run_id = streamed(client, "what is it like?", tools=TOOLS, tool_choice="required")
    code, told = report(server, run_id)
    assert (code, told["same"], told["status"]) == (0, True, "completed")
    assert told["replay_of"] == ids.run_id_of(run_id)
    original, again = told["original"], told["replay"]
    assert original["choices"] == again["choices"]
    (call,) = again["choices"][0]["tool_calls"]
    assert call["name"] == "get_weather"
    assert set(call["arguments"]) == {"city", "days"}
    assert original["usage"] == again["usage"]
    assert again["usage"]["completion_tokens"] > 0
    assert again["deployment"] == original["deployment"]
    for timing in (original["timing"], again["timing"]):
        assert timing["total"] > timing["first_token"] > 0


@pytest.mark.requirement("runs.replay")
def test_another_models_calls_of_tools_are_a_readable_difference(
    server: LaunchedServer, client: openai.OpenAI
) -> None:
    asked = 'use get_weather\n!tool get_weather {"city": "Oslo", "days": 2}'
    run_id = streamed(client, asked, tools=TOOLS)
    code, told = report(server, run_id, "--model", SCRIPTED)
    assert code == 1
    (choice,) = told["comparison"]["choices"]
    assert (choice["tool_calls"], choice["finish_reason"]) == (False, True)
    [before], [after] = (
        told[which]["choices"][0]["tool_calls"] for which in ("original", "replay")
    )
    assert after == {"name": "get_weather", "arguments": {"city": "Oslo", "days": 2}}
    assert before["name"] == "get_weather"
    assert before != after
    lines = replay(server, run_id, "--model", SCRIPTED).stdout.decode().splitlines()
    assert "choice 0: text same · tool calls different · finish reason same" in lines
    [gone] = [line for line in lines if line.startswith("  - ")]
    [new] = [line for line in lines if line.startswith("  + ")]
    assert gone.startswith("  - get_weather({")
    assert new == '  + get_weather({"city":"Oslo","days":2})'


@pytest.mark.requirement("runs.replay")
def test_another_model_gives_a_readable_difference(
    server: LaunchedServer, client: openai.OpenAI
) -> None:
    run_id = streamed(client, "say something")
    done = replay(server, run_id, "--model", SCRIPTED)
    assert done.returncode == 1, done.stderr.decode()
    told = done.stdout.decode()
    assert "choice 0: text different · tool calls same" in told
    assert "[-" in told
    assert "{+" in told
    assert re.search(r"deployment +simulated/jan-simulated +scripted/scripted", told)
    assert told.endswith("\ndifferent\n")
    assert "the request has no seed" in told


@pytest.mark.requirement("runs.replay")
def test_a_deployment_can_be_chosen(server: LaunchedServer, client: openai.OpenAI) -> None:
    run_id = streamed(client, "on which?")
    code, told = report(server, run_id, "--deployment", "scripted/scripted")
    assert (code, told["replay"]["deployment"]) == (1, "scripted/scripted")
    done = replay(server, run_id, "--deployment", "nobody/nothing")
    assert done.returncode == 1
    assert b"'nobody/nothing' does not exist" in done.stderr


@pytest.mark.requirement("runs.replay.sandbox")
def test_a_replay_leaves_no_row_and_no_usage(server: LaunchedServer) -> None:
    key = server.create_key("--name", "replayed", "--principal", "user_replayed")
    with openai_client(server.url, key) as client:
        run_id = streamed(client, "count me once")
    _, told = report(server, run_id)
    # Once a later run is in the database, all of the log before it is.
    with openai_client(server.url, key) as client:
        last = ids.run_id_of(streamed(client, "and me"))
    seen = asked_until_it_has(server, last)
    assert [run.run_id for run in seen.runs] == [ids.run_id_of(run_id), last]
    with pytest.raises(NotFound):
        asked(server, "get", AskRun(run_id=told["id"]), RunFacts)
    story = server.jan("log", told["id"]).stdout.decode()
    assert f"a replay of {ids.run_id_of(run_id)}" in story
    assert "completed" in story


def asked_until_it_has(server: LaunchedServer, run_id: str | None) -> RunList:
    def read() -> RunList | None:
        question = AskRuns(principal="user_replayed", order="asc")
        found: RunList = asked(server, "list", question, RunList)
        ended = [run.run_id for run in found.runs if run.status == "completed"]
        return found if run_id in ended else None

    found = eventually(read)
    assert found is not None
    return found


@pytest.mark.requirement("runs.replay")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["run_nonsense"], "is not an id"),
        (["conv_01m7yt80953za13kgsqxj5a410"], "is a conversation: name one of its runs"),
        (["run_01m7yt80953za13kgsqxj5a410", "--at", "0"], "steps count from 1"),
        (["run_01m7yt80953za13kgsqxj5a410", "--failed"], "--failed is for --many"),
        ([], "name one run, or --many"),
    ],
)
def test_what_cannot_be_replayed_is_told_in_one_line(
    server: LaunchedServer, arguments: list[str], why: str
) -> None:
    done = replay(server, *arguments)
    assert done.returncode == 2
    assert why in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1


@pytest.mark.requirement("runs.replay")
def test_a_run_that_nobody_knows_ends_with_1(server: LaunchedServer) -> None:
    done = replay(server, "run_01m7yt80953za13kgsqxj5a410")
    assert done.returncode == 1
    assert b"nothing is known of it" in done.stderr


@pytest.mark.requirement("runs.replay.many")
def test_many_runs_are_replayed_and_summed_up(server: LaunchedServer) -> None:
    key = server.create_key("--name", "many", "--principal", "user_many")
    with openai_client(server.url, key) as client:
        for number in range(3):
            streamed(client, f"number {number}")
    wanted = ("--many", "--principal", "user_many", "--since", "1h", "--model-was", SIMULATED)
    code, told = many_until(server, 3, *wanted)
    assert code == 0
    assert told["totals"]["same"] == 3
    assert told["totals"]["tokens"][0] == told["totals"]["tokens"][1] > 0
    code, told = many_until(server, 2, *wanted, "--limit", "2", "--model", SCRIPTED)
    assert (code, told["totals"]["different"]) == (1, 2)
    table = replay(server, *wanted).stdout.decode().splitlines()
    assert table[0].split() == ["run", "result", "tokens", "seconds", "error"]
    assert table[-2] == "3 runs: 3 same"


def many_until(server: LaunchedServer, count: int, *arguments: str) -> tuple[int, Any]:
    def read() -> tuple[int, Any] | None:
        code, told = report(server, *arguments)
        return (code, told) if told["totals"]["runs"] == count else None

    found = eventually(read)
    assert found is not None
    return found


def posted(http: httpx.Client, run_id: str, query: str = "", **body: Any) -> httpx.Response:
    """Ask for a replay, and again while the database is behind the log."""

    def post() -> httpx.Response | None:
        answer = http.post(f"/v1/runs/{run_id}/replay{query}", json=body)
        return answer if answer.status_code != 503 else None

    answer = eventually(post)
    assert answer is not None
    return answer


@pytest.mark.requirement("runs.replay.api")
def test_ones_own_run_is_replayed_over_http(http: httpx.Client, client: openai.OpenAI) -> None:
    run_id = streamed(client, "over http")
    queued = posted(http, run_id)
    assert queued.status_code == 202
    told = queued.json()
    assert told == {
        "object": "run.replay",
        "id": told["id"],
        "replay_of": ids.run_id_of(run_id),
        "status": "queued",
    }
    frames = http.get(f"/v1/chat/completions/{ids.public_id(told['id'], 'chat')}/stream")
    assert "[DONE]" in frames.text
    ended = posted(http, run_id, "?wait=true")
    assert ended.status_code == 200
    assert ended.json()["same"] is True
    other = posted(http, run_id, "?wait=true", model=SCRIPTED).json()
    assert other["same"] is False
    assert other["comparison"]["choices"][0]["diffs"]["content"].startswith("--- original")


@pytest.mark.requirement("runs.replay.api")
def test_a_foreign_run_is_as_good_as_missing_but_for_an_admin(
    server: LaunchedServer, http: httpx.Client, client: openai.OpenAI
) -> None:
    run_id = streamed(client, "mine")
    with http_client(server.url, server.create_key("--name", "stranger")) as stranger:
        foreign = stranger.post(f"/v1/runs/{run_id}/replay")
        missing = stranger.post("/v1/runs/chatcmpl-01m7yt80953za13kgsqxj5a410/replay")
    assert (foreign.status_code, missing.status_code) == (404, 404)
    assert set(foreign.json()["error"]) == set(missing.json()["error"])
    assert foreign.json()["error"]["code"] == missing.json()["error"]["code"]
    admin = server.create_key("--name", "replays", "--scope", "admin")
    with http_client(server.url, admin) as operator:
        told = posted(operator, run_id, "?wait=true")
    assert told.json().get("same") is True, told.text


@pytest.mark.requirement("runs.replay.api")
def test_what_is_wrong_with_a_replay_is_named(http: httpx.Client, client: openai.OpenAI) -> None:
    run_id = streamed(client, "wrongly")
    unknown = posted(http, run_id, model="no-such-model")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model"), unknown.text
    odd = http.post(f"/v1/runs/{run_id}/replay?wait=perhaps")
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "wait")
