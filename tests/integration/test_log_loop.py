"""`jan log` of a response: its steps and its calls of tools, as a tree and for programs."""

import json
import time

import pytest

from bus import open_bus
from cli.exits import BadSetup
from schemas import ids
from tests.support.log import Told, show
from tests.support.nats import NatsServer, migrate
from tests.support.runs import new_run, store, tellers
from tests.support.stored_responses import call_of, id_of, response_of, step_of

pytestmark = pytest.mark.usefixtures("jan_finds_nats")

LONG = "how warm is it " * 9


async def tell(nats: NatsServer, run_id: str, *, whole: bool = True) -> None:
    """Two steps with a call between them, and one that is under way; or only the beginning."""
    at = time.time()
    begin, end = response_of(run_id, "How warm is it?", at=at)
    first, second = (step_of(run_id, n, at=at + n / 10) for n in (1, 2))
    call = call_of(run_id, 1, at=at + 0.15, words=LONG)
    open_call, _ = call_of(run_id, 2, at=at + 0.18)
    facts = [begin, *first, *call, open_call, *second, end]
    async with (
        tellers(nats) as (edge, inference),
        open_bus(nats.url("cli"), name="cli") as cli,
    ):
        await store(edge, inference, facts if whole else facts[:-2], others=cli)


@pytest.mark.requirement("log.response")
async def test_steps_and_calls_are_a_tree_in_the_order_of_time(
    nats: NatsServer, told: Told
) -> None:
    await migrate(nats)
    run_id = new_run()
    await tell(nats, run_id)
    assert await show(id_of(run_id), as_json=False) == 0  # without the database

    tree = [line for line in told.look() if line.startswith(("├─", "└─"))]
    assert [line.split()[3] for line in tree] == ["step", "call", "call", "step"]
    step, call, open_call, last = tree
    for words in ("1 · local/m", "3 + 4 = 7 tokens", "in all"):
        assert words in step
    assert 'web_search({"query":"how warm is it' in call
    assert "…) · completed · 100.0 ms" in call
    assert len(call) < 160
    assert open_call.endswith("web_search · at work")
    assert last.startswith("└─")


@pytest.mark.requirement("log.response")
async def test_programs_get_the_same_facts(nats: NatsServer, told: Told) -> None:
    await migrate(nats)
    run_id = new_run()
    await tell(nats, run_id)
    assert await show(run_id) == 0
    facts = [json.loads(line) for line in told.look() if line.startswith("{")]
    first, second = [fact for fact in facts if fact["what"] == "step"]
    assert (first["number"], second["number"]) == (1, 2)
    assert first["id"] == ids.derived_id("run_", run_id, 1)
    assert first["usage"]["total_tokens"] == 7
    assert (first["deployment"], first["attempts"]) == ("local/m", 1)
    call, open_call = [fact for fact in facts if fact["what"] == "call"]
    assert json.loads(call["arguments"]) == {"query": LONG}
    assert (call["status"], call["seconds"], call["tool"]) == ("completed", 0.1, "web_search")
    assert open_call["status"] == "running"
    assert {fact["run_id"] for fact in facts} == {run_id}


async def test_one_that_is_under_way_is_told_as_far_as_it_is(nats: NatsServer, told: Told) -> None:
    await migrate(nats)
    run_id = new_run()
    await tell(nats, run_id, whole=False)
    assert await show(id_of(run_id)) == 0
    assert told.facts() == ["accepted", "queued", "step", "call", "call", "step"]


async def test_a_parent_that_is_none_is_refused() -> None:
    with pytest.raises(BadSetup, match="--parent is resp_"):
        await show("--parent", "conv_1")
