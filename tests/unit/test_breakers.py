"""Deployments that fail are tried last."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.commands import RunInference, Target
from schemas.errors import UpstreamError, UpstreamRateLimited
from tests.support.virtual_time import run_in_virtual_time
from workers.inference.breakers import Breakers, key_of
from workers.inference.deployments import Deployment
from workers.inference.failover import Moved, Turns

ONE, TWO, FAR = Target("one/m", "remote"), Target("two/m", "remote"), Target("far/m", "far")


def deployments(*targets: Target, can_continue: bool = False) -> dict[str, Deployment]:
    engine = cast(Any, SimpleNamespace(can_continue=can_continue))
    return {
        target.deployment: Deployment(target.deployment, target.pool, "m", engine)
        for target in targets
    }


def job(*targets: Target) -> RunInference:
    return RunInference(
        run_id="run_a",
        kind="chat",
        edge="edge-1",
        principal="p",
        model="m",
        targets=list(targets),
        created=0,
        deadline=0.0,
        request_id="r",
    )


class Elsewhere:
    """The queues of other pools."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, list[Target]]] = []

    async def __call__(self, moved: RunInference, pool: str) -> None:
        self.moved.append((pool, moved.targets))


def down(*names: str) -> Breakers:
    breakers = Breakers()
    for name in names:
        for _ in range(3):
            breakers.note_failure(name, UpstreamError("no"))
    return breakers


async def order_of(turns: Turns) -> list[str]:
    order = [(await turns.next(0)).id for _ in range(2)]
    with pytest.raises(UpstreamError):
        await turns.next(0)
    return order


async def test_a_deployment_that_failed_thrice_is_tried_last() -> None:
    breakers = Breakers()
    breakers.note_failure("one/m", UpstreamError("no"))
    here = deployments(ONE, TWO)
    assert await order_of(Turns(here, job(ONE, TWO), breakers, Elsewhere())) == ["one/m", "two/m"]
    turns = Turns(here, job(ONE, TWO), down("one/m"), Elsewhere())
    assert await order_of(turns) == ["two/m", "one/m"]


async def test_a_success_makes_it_good() -> None:
    breakers = down("one/m")
    assert breakers.is_down("one/m")
    breakers.note_success("one/m")
    assert not breakers.is_down("one/m")


async def test_a_rate_limit_counts_for_as_long_as_it_says() -> None:
    breakers = Breakers()
    breakers.note_failure("one/m", UpstreamRateLimited("slow down", retry_after=9.0))
    assert breakers.is_down("one/m")


async def test_what_others_found_is_believed_until_it_ends() -> None:
    breakers = Breakers()
    key = key_of("one/m")
    breakers.on_change(key, b'{"deployment":"one/m","until":1e12}', 1)
    assert breakers.is_down("one/m")
    breakers.on_change(key, b'{"deployment":"one/m","until":0}', 2)
    assert not breakers.is_down("one/m")
    breakers.on_change(key, b"nonsense", 3)


async def test_a_target_of_another_pool_takes_the_job_there_without_those_that_failed() -> None:
    elsewhere = Elsewhere()
    turns = Turns(deployments(ONE), job(ONE, FAR, TWO), Breakers(), elsewhere)
    assert (await turns.next(0)).id == "one/m"
    with pytest.raises(Moved):
        await turns.next(0)
    assert elsewhere.moved == [("far", [FAR, TWO])]


async def test_after_the_first_token_only_engines_that_can_continue_have_turns() -> None:
    turns = Turns(deployments(ONE, TWO), job(ONE, TWO), Breakers(), Elsewhere())
    with pytest.raises(UpstreamError, match="can't go on"):
        await turns.next(5)
    turns = Turns(deployments(ONE, TWO, can_continue=True), job(ONE, TWO), Breakers(), Elsewhere())
    assert (await turns.next(5)).id == "one/m"
    turns.failure = UpstreamError("cut")
    assert (await turns.next(6)).id == "two/m"


async def give_up() -> None:
    turns = Turns(deployments(ONE, can_continue=True), job(ONE), Breakers(), Elsewhere())
    await turns.next(5)
    turns.failure = UpstreamError("cut")
    for _ in range(4):
        assert (await turns.next(6)).id == "one/m"
    with pytest.raises(UpstreamError, match="cut"):
        await turns.next(6)


def test_a_stream_that_does_not_get_on_is_given_up() -> None:
    run_in_virtual_time(give_up)
