"""The order in which a run's deployments are tried, and how long it looks for one."""

import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from schemas.commands import RunInference, Target
from schemas.errors import (
    JanError,
    RateLimited,
    UpstreamError,
    UpstreamNotFound,
    UpstreamRateLimited,
)
from schemas.providers import Limits, RetrySettings
from tests.support.virtual_time import run_in_virtual_time
from workers.inference.capacity import Capacity
from workers.inference.deployments import Deployment, Deployments
from workers.inference.failover import Fleet, Moved, Turns

ONE, TWO, FAR = Target("one/m", "remote"), Target("two/m", "remote"), Target("far/m", "far")
NO_RETRY = RetrySettings(attempts=1)


class Served(Deployments):
    """Deployments without providers."""

    def __init__(self, *found: Deployment) -> None:
        super().__init__()
        self._found = {one.id: one for one in found}

    def pools(self) -> list[str]:
        return ["remote"]


def deployment(target: Target, *, can_continue: bool = False, **limits: int) -> Deployment:
    engine = cast(Any, SimpleNamespace(can_continue=can_continue))
    return Deployment(target.deployment, target.pool, "m", engine, Limits(**limits))


def fleet(*targets: Target, retry: RetrySettings = NO_RETRY, **options: Any) -> Fleet:
    found = Served(*(deployment(target, **options) for target in targets))
    return Fleet(found, retry=retry)


def job(*targets: Target, moves: int = 0) -> RunInference:
    return RunInference(
        run_id="run_a",
        kind="chat",
        edge="edge-1",
        principal="p",
        model="m",
        targets=list(targets),
        created=0,
        deadline=time.time() + 100,
        request_id="r",
        moves=moves,
    )


class Elsewhere:
    """The queues of other pools."""

    def __init__(self) -> None:
        self.moved: list[tuple[str, list[Target]]] = []

    async def __call__(self, moved: RunInference, pool: str) -> None:
        self.moved.append((pool, moved.targets))


def turns_of(served: Fleet, *targets: Target) -> Turns:
    return Turns(served, job(*targets), Elsewhere())


async def take(turns: Turns, sent: int = 0, error: JanError | None = None) -> str:
    """Make one attempt, which may fail."""
    with await turns.next(sent) as attempt:
        if error is not None:
            turns.note_failure(attempt, error)
        return attempt.deployment.id


async def order_of(turns: Turns, error: JanError | None = None) -> list[str]:
    """All attempts, each of which fails."""
    error = error or UpstreamError("no")
    order = []
    while True:
        try:
            order.append(await take(turns, error=error))
        except JanError:
            return order


def down(served: Fleet, *names: str) -> Fleet:
    for name in names:
        for _ in range(3):
            served.breakers.note_failure(name, UpstreamError("no"))
    return served


async def test_each_deployment_has_its_turn_in_the_jobs_order() -> None:
    assert await order_of(turns_of(fleet(ONE, TWO), ONE, TWO)) == ["one/m", "two/m"]


async def test_a_deployment_that_is_down_is_tried_last() -> None:
    served = down(fleet(ONE, TWO), "one/m")
    assert await order_of(turns_of(served, ONE, TWO)) == ["two/m", "one/m"]


async def test_the_only_deployment_is_tried_although_it_is_down() -> None:
    served = down(fleet(ONE), "one/m")
    assert await take(turns_of(served, ONE)) == "one/m"


async def in_rounds() -> None:
    served = fleet(ONE, TWO, retry=RetrySettings(attempts=3, backoff_s=0.2))
    served.breakers.settings = served.breakers.settings.model_copy(update={"failures": 0})
    order = await order_of(turns_of(served, ONE, TWO))
    assert order == ["one/m", "two/m"] * 3


def test_when_all_had_their_turn_they_are_tried_again() -> None:
    run_in_virtual_time(in_rounds)


async def without_what_is_not_there() -> None:
    served = fleet(ONE, TWO, retry=RetrySettings(attempts=3, backoff_s=0.2))
    turns = turns_of(served, ONE, TWO)
    assert await take(turns, error=UpstreamError("broken")) == "one/m"
    assert await take(turns, error=UpstreamNotFound("never heard of it")) == "two/m"
    assert await take(turns, error=UpstreamNotFound("nor has this one")) == "one/m"
    with pytest.raises(UpstreamError, match="broken"):
        await take(turns)


def test_who_does_not_have_the_model_is_tried_once_and_told_about_last() -> None:
    run_in_virtual_time(without_what_is_not_there)


async def test_nothing_is_tried_again_after_the_longest_time() -> None:
    served = fleet(ONE, retry=RetrySettings(attempts=9, backoff_s=1.0, max_s=0.2))
    assert await order_of(turns_of(served, ONE)) == ["one/m"]


async def test_who_asked_to_be_left_alone_is_not_tried_and_the_client_learns_for_how_long() -> None:
    served = fleet(ONE, retry=RetrySettings(attempts=3, max_s=5))
    served.breakers.note_failure("one/m", UpstreamRateLimited("slow down", retry_after=60))
    with pytest.raises(UpstreamRateLimited, match="slow down") as caught:
        await take(turns_of(served, ONE))
    assert 59 < (caught.value.retry_after or 0) <= 60
    served.breakers.note_failure("one/m", UpstreamError("closed for today", retry_after=90))
    with pytest.raises(JanError, match="closed for today") as caught_other:
        await take(turns_of(served, ONE))
    assert caught_other.value.http_status == 503


async def test_a_short_wait_that_a_provider_asked_for_is_waited() -> None:
    served = fleet(ONE, retry=RetrySettings(max_s=5))
    served.breakers.note_failure("one/m", UpstreamRateLimited("slow down", retry_after=0.1))
    began = time.time()
    assert await take(turns_of(served, ONE)) == "one/m"
    assert time.time() - began >= 0.09


async def test_a_deployment_at_its_limit_is_passed_over() -> None:
    served = Fleet(Served(deployment(ONE, in_flight=1), deployment(TWO)), retry=NO_RETRY)
    with await turns_of(served, ONE, TWO).next(0) as first:
        assert first.deployment.id == "one/m"
        assert await take(turns_of(served, ONE, TWO)) == "two/m"
    assert await take(turns_of(served, ONE, TWO)) == "one/m"


async def test_a_run_waits_for_a_limit_and_is_then_refused_with_the_time_to_come_back() -> None:
    patient = RetrySettings(max_s=0.5)
    served = Fleet(Served(deployment(ONE, rpm=1)), retry=patient)
    assert await take(turns_of(served, ONE)) == "one/m"
    with pytest.raises(RateLimited) as caught:
        await take(turns_of(served, ONE))
    assert 58 < (caught.value.retry_after or 0) <= 60


def test_limits_are_divided_by_the_workers_that_are_there() -> None:
    now = [0.0]
    capacity = Capacity(lambda _: 2, lambda: now[0])
    limits = Limits(rpm=5, in_flight=6)
    for _ in range(2):
        assert not capacity.wait("d", "remote", limits)
        capacity.take("d", limits)
    assert capacity.wait("d", "remote", limits) == 60
    now[0] = 61
    capacity.take("d", limits)
    assert capacity.wait("d", "remote", limits) > 0  # three of six are there
    capacity.give_back("d")
    assert not capacity.wait("d", "remote", limits)


async def test_a_target_of_another_pool_takes_the_job_there_without_those_that_failed() -> None:
    elsewhere = Elsewhere()
    turns = Turns(fleet(ONE), job(ONE, FAR, TWO), elsewhere)
    assert await take(turns, error=UpstreamError("no")) == "one/m"
    with pytest.raises(Moved):
        await take(turns)
    assert elsewhere.moved == [("far", [FAR, TWO])]


async def test_a_job_does_not_go_round_between_pools_for_ever() -> None:
    turns = Turns(fleet(ONE), job(FAR, moves=8), Elsewhere())
    with pytest.raises(UpstreamError, match="no deployment"):
        await take(turns)


async def test_a_deployment_that_the_file_got_a_moment_ago_is_found() -> None:
    served = fleet(ONE)

    async def look() -> None:
        served.deployments = Served(deployment(ONE), deployment(TWO))

    served.look = look
    assert await take(turns_of(served, TWO)) == "two/m"


async def test_after_the_first_token_only_engines_that_can_continue_have_turns() -> None:
    turns = turns_of(fleet(ONE, TWO), ONE, TWO)
    with pytest.raises(UpstreamError, match="can't go on"):
        await take(turns, sent=5)
    turns = turns_of(fleet(ONE, TWO, can_continue=True), ONE, TWO)
    assert await take(turns, sent=5) == "one/m"
    turns.failure = UpstreamError("cut")
    assert await take(turns, sent=6) == "two/m"


async def give_up() -> None:
    turns = turns_of(fleet(ONE, can_continue=True), ONE)
    await take(turns, sent=5)
    turns.failure = UpstreamError("cut")
    for _ in range(4):
        assert await take(turns, sent=6) == "one/m"
    with pytest.raises(UpstreamError, match="cut"):
        await take(turns, sent=6)


def test_a_stream_that_does_not_get_on_is_given_up() -> None:
    run_in_virtual_time(give_up)
