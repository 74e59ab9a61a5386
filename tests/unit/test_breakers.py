"""Breakers: when a deployment counts as down, who tries it out, and when it is used again."""

import msgspec

from schemas.errors import UpstreamError, UpstreamRateLimited
from schemas.health import DeploymentState, key_of
from schemas.providers import BreakerSettings
from tests.support.clock import Clock
from workers.inference.breakers import Breakers

NAME = "one/m"


def breakers(**settings: float) -> tuple[Breakers, Clock]:
    clock = Clock()
    made = Breakers(None, BreakerSettings(**settings), "inference-1", clock)  # type: ignore[arg-type]
    return made, clock


def fail(found: Breakers, times: int = 1) -> None:
    for _ in range(times):
        found.note_failure(NAME, UpstreamError("no"))


async def test_three_failures_in_a_row_open_it_for_a_moment() -> None:
    found, clock = breakers()
    fail(found, 2)
    assert not found.is_down(NAME)
    fail(found)
    assert found.is_down(NAME)
    assert found.state_of(NAME).reason == "no"
    clock.now += 2.1
    assert not found.is_down(NAME)
    assert found.state_of(NAME).state == "open"


async def test_a_success_in_between_starts_the_count_again() -> None:
    found, _ = breakers()
    for _ in range(3):
        fail(found, 2)
        found.note_success(NAME)
    assert not found.is_down(NAME)


async def test_half_of_ten_runs_failing_within_the_window_opens_it() -> None:
    found, _ = breakers()
    for _ in range(4):
        found.note_success(NAME)
        fail(found)
    assert not found.is_down(NAME)
    found.note_success(NAME)
    fail(found)
    assert found.is_down(NAME)


async def test_failures_older_than_the_window_do_not_count() -> None:
    found, clock = breakers(window_s=5, failures=0)
    fail(found, 8)
    clock.now += 6
    for _ in range(6):
        found.note_success(NAME)
    fail(found, 5)
    assert not found.is_down(NAME)
    fail(found)
    assert found.is_down(NAME)


async def test_what_is_off_never_opens_it() -> None:
    found, _ = breakers(failures=0, error_rate=0)
    fail(found, 100)
    assert not found.is_down(NAME)


async def test_a_slow_first_token_counts_as_a_failure() -> None:
    found, clock = breakers(slow_first_token_s=1.5)
    for _ in range(3):
        found.note_first_token(NAME, 1.0, clock.now)
        found.note_first_token(NAME, 2.0, clock.now)
    assert not found.is_down(NAME)
    for _ in range(2):
        found.note_first_token(NAME, 2.0, clock.now)
    assert found.is_down(NAME)
    assert "2.0 s" in found.state_of(NAME).reason


async def test_one_run_at_a_time_tries_it_out_and_closes_it() -> None:
    found, clock = breakers()
    fail(found, 3)
    assert not await found.claim(NAME)
    clock.now += 2.1
    assert await found.claim(NAME)
    assert found.is_down(NAME)  # for all others
    assert not await found.claim(NAME)
    found.note_success(NAME, clock.now)
    assert not found.is_down(NAME)
    assert found.state_of(NAME).state == "closed"
    assert await found.claim(NAME)


async def test_as_many_trials_as_are_set_have_to_succeed() -> None:
    found, clock = breakers(trials=3)
    fail(found, 3)
    clock.now += 2.1
    for _ in range(3):
        assert found.state_of(NAME).state != "closed"
        assert await found.claim(NAME)
        found.note_success(NAME, clock.now)
    assert found.state_of(NAME).state == "closed"


async def test_each_trial_that_fails_doubles_the_time_up_to_the_longest() -> None:
    found, clock = breakers(open_max_s=10)
    fail(found, 3)
    seen = []
    for _ in range(4):
        clock.now = found.state_of(NAME).until + 0.1
        assert await found.claim(NAME)
        fail(found)
        seen.append(round(found.state_of(NAME).until - clock.now, 3))
    assert seen == [4, 8, 10, 10]


async def test_a_trial_that_says_nothing_makes_room_for_the_next_one() -> None:
    found, clock = breakers()
    fail(found, 3)
    clock.now += 2.1
    assert await found.claim(NAME)
    found.release(NAME)
    assert not found.is_down(NAME)
    assert await found.claim(NAME)


async def test_the_trial_of_a_lost_worker_ends_by_itself() -> None:
    found, clock = breakers()
    theirs = DeploymentState(NAME, until=clock.now + 10, state="half-open", by="inference-2")
    found.on_change(key_of(NAME), msgspec.json.encode(theirs), 1)
    assert not await found.claim(NAME)
    clock.now += 10.1
    assert await found.claim(NAME)


async def test_a_trial_that_takes_long_stays_this_workers() -> None:
    found, clock = breakers()
    fail(found, 3)
    clock.now += 2.1
    assert await found.claim(NAME)
    for _ in range(30):
        clock.now += 1
        found.tick()
        assert found.is_down(NAME)


async def test_what_was_begun_before_it_opened_says_nothing_new() -> None:
    found, clock = breakers()
    began = clock.now
    clock.now += 1
    fail(found, 3)
    until = found.state_of(NAME).until
    clock.now += 2.1
    found.note_failure(NAME, UpstreamError("late"), began)
    found.note_success(NAME, began)
    assert (found.state_of(NAME).state, found.state_of(NAME).until) == ("open", until)


async def test_a_provider_that_asks_to_be_left_alone_is() -> None:
    found, clock = breakers()
    found.note_failure(NAME, UpstreamRateLimited("slow down", retry_after=90.0))
    assert found.asked_to_wait(NAME) == 90
    found.note_success(NAME)  # of a run from before
    clock.now += 89
    assert found.is_down(NAME)
    assert found.state_of(NAME).limited
    clock.now += 2
    assert await found.claim(NAME)


async def test_a_trial_that_is_limited_waits_for_as_long_as_it_says() -> None:
    found, clock = breakers()
    found.note_failure(NAME, UpstreamRateLimited("slow down", retry_after=1.0))
    clock.now += 1.1
    assert await found.claim(NAME)
    found.note_failure(NAME, UpstreamRateLimited("slow down", retry_after=2.0))
    assert found.asked_to_wait(NAME) == 2
    clock.now += 2.1
    assert await found.claim(NAME)


async def test_a_rate_limit_without_a_time_counts_for_a_second() -> None:
    found, clock = breakers()
    found.note_failure(NAME, UpstreamRateLimited("slow down"))
    assert (found.is_down(NAME), found.asked_to_wait(NAME)) == (True, 0)
    clock.now += 1.1
    assert not found.is_down(NAME)


async def test_a_probe_that_fails_opens_it_unless_runs_succeed() -> None:
    found, clock = breakers()
    found.note_success(NAME)
    found.note_probe(NAME, "refused", since=clock.now - 10)
    assert not found.is_down(NAME)
    found.note_probe(NAME, "refused", since=clock.now + 1)
    assert found.is_down(NAME)
    assert found.state_of(NAME).reason == "probe: refused"


async def test_a_probe_that_succeeds_after_one_that_failed_lets_a_run_try_at_once() -> None:
    found, clock = breakers(open_s=50)
    found.note_probe(NAME, "refused", since=clock.now)
    clock.now += 5
    assert not await found.claim(NAME)
    found.note_probe(NAME, None, since=clock.now)
    assert found.state_of(NAME).state == "open"
    assert await found.claim(NAME)


async def test_a_probe_that_succeeds_says_nothing_of_what_runs_have_found() -> None:
    found, clock = breakers(open_s=50)
    fail(found, 3)
    found.note_probe(NAME, None, since=clock.now)
    assert found.is_down(NAME)


async def test_what_others_found_is_believed_and_nonsense_is_not() -> None:
    found, clock = breakers()
    theirs = DeploymentState(NAME, until=clock.now + 5, state="open", reason="they say so")
    found.on_change(key_of(NAME), msgspec.json.encode(theirs), 2)
    assert found.is_down(NAME)
    found.on_change(key_of(NAME), msgspec.json.encode(DeploymentState(NAME)), 1)  # older
    found.on_change(key_of(NAME), b"nonsense", 3)
    assert found.is_down(NAME)
    found.on_change(key_of(NAME), msgspec.json.encode(DeploymentState(NAME)), 4)
    assert not found.is_down(NAME)


async def test_what_nobody_asks_for_is_forgotten() -> None:
    found, clock = breakers(open_max_s=10)
    fail(found, 3)
    clock.now += 13
    found.tick()
    assert found.state_of(NAME).state == "closed"
    clock.now += 13
    found.tick()
    assert found.states() == []
