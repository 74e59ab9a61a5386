"""When a backend is left alone, and when it is tried again."""

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from tests.support.clock import Clock
from workers.tools.breakers import Breakers
from workers.tools.metrics import BreakerMetrics
from workers.tools.outcome import Failed


def fail(breakers: Breakers, backend: str = "b", *, retryable: bool = True) -> str:
    """Use a backend that fails; what the call is told."""
    with pytest.raises(Failed) as caught, breakers.guard(backend, "it"):
        raise Failed("down", "down", retryable=retryable)
    return caught.value.code


def succeed(breakers: Breakers, backend: str = "b") -> None:
    with breakers.guard(backend, "it"):
        pass


def test_it_opens_after_failures_in_a_row_and_closes_with_a_success() -> None:
    clock = Clock()
    breakers = Breakers(2, 10.0, clock)
    assert fail(breakers) == "down"
    succeed(breakers)
    assert [fail(breakers), fail(breakers), fail(breakers)] == ["down", "down", "unavailable"]
    assert not breakers.is_open("another")
    clock.now += 10
    assert fail(breakers) == "down"
    assert fail(breakers) == "unavailable", "one failure after the pause is enough"
    clock.now += 10
    succeed(breakers)
    assert fail(breakers) == "down"


def test_what_the_call_is_to_blame_for_opens_nothing() -> None:
    breakers = Breakers(1, 10.0)
    assert fail(breakers, retryable=False) == "down"
    assert not breakers.is_open("b")


def test_it_remembers_only_so_many_backends() -> None:
    breakers = Breakers(1, 10.0)
    for number in range(1500):
        fail(breakers, str(number))
    assert len(breakers.states()) == 1000


def test_metrics_say_what_is_open() -> None:
    breakers = Breakers(2, 10.0)
    for backend in ("search:Serper", "search:Serper", "search:Exa"):
        fail(breakers, backend)
    registry = CollectorRegistry()
    registry.register(BreakerMetrics(breakers.states))
    told = generate_latest(registry).decode()
    assert 'jan_tools_breaker_open{backend="search:Serper"} 1.0' in told
    assert 'jan_tools_breaker_open{backend="search:Exa"} 0.0' in told
