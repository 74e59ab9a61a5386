"""Who is there, by the watcher's own clock."""

from typing import Any, cast

import msgspec
import pytest

from bus.connection import Bus
from edge.presence import Presence
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def presence(clock: Clock) -> Presence:
    return Presence(cast(Bus, None), "edge-1", dict, clock)


def tell(presence: Presence, key: str, **facts: Any) -> None:
    presence.on_change(key, msgspec.json.encode(facts), 1)


def test_edges_are_counted_with_this_one(presence: Presence, clock: Clock) -> None:
    assert presence.edges() == 1
    tell(presence, "edge.edge-1")
    tell(presence, "edge.edge-2")
    clock.now += 1
    assert presence.edges() == 2


def test_who_is_silent_or_leaving_is_not_there(presence: Presence, clock: Clock) -> None:
    tell(presence, "worker.inference.inference-1")
    tell(presence, "worker.inference.inference-2", draining=True)
    tell(presence, "worker.persistence.persistence-1")
    assert len(presence.workers("inference")) == 1
    clock.now += 5
    tell(presence, "worker.persistence.persistence-1")
    clock.now += 2
    assert presence.workers("inference") == []
    assert len(presence.workers("persistence")) == 1
    presence.on_change("worker.persistence.persistence-1", None, 2)
    assert presence.workers("persistence") == []


def test_what_is_no_process_is_passed_over(presence: Presence) -> None:
    tell(presence, "deployment.remote/m", state="open")
    presence.on_change("worker.inference.broken", b"{", 1)
    assert presence.workers("inference") == []


def test_an_edge_that_is_late_with_its_word_or_stopping_may_still_serve(
    presence: Presence, clock: Clock
) -> None:
    tell(presence, "edge.edge-1")
    assert not presence.has_peers()
    tell(presence, "edge.edge-2", draining=True)
    clock.now += 30
    assert presence.edges() == 1
    assert presence.has_peers()
    clock.now += 40
    assert not presence.has_peers()
