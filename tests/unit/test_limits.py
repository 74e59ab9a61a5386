"""Rates and requests at a time, by a clock that the test turns."""

from collections.abc import Callable

import pytest

from edge.auth import Principal
from edge.limits import Creations, Limits, network_of
from schemas.errors import RateLimited
from tests.support.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


def guest(name: str = "user_1", rpm: int = 60, in_flight: int = 8) -> Principal:
    return Principal(id=name, username=name, method="jwt", rpm=rpm, in_flight=in_flight)


def count_until_refused(enter: Callable[[], object]) -> tuple[int, RateLimited]:
    for number in range(10_000):
        try:
            enter()
        except RateLimited as error:
            return number, error
    raise AssertionError("never refused")


def test_a_rate_allows_a_minutes_worth_at_once_and_then_refills(clock: Clock) -> None:
    limits = Limits(lambda: 1, clock)

    def request() -> None:
        limits.leave(limits.enter(guest()))

    taken, error = count_until_refused(request)
    assert taken == 60
    assert error.retry_after == pytest.approx(1.0)
    clock.now += 0.9
    with pytest.raises(RateLimited):
        request()
    clock.now += 0.2
    request()


def test_the_headers_tell_how_much_is_left(clock: Clock) -> None:
    limits = Limits(lambda: 1, clock)
    limits.enter(guest())
    assert dict(limits.enter(guest()).headers) == {
        b"x-ratelimit-limit-requests": b"60",
        b"x-ratelimit-remaining-requests": b"58",
        b"x-ratelimit-reset-requests": b"2s",
    }


def test_requests_at_a_time_are_counted_and_given_back(clock: Clock) -> None:
    limits = Limits(lambda: 1, clock)
    open_ones = [limits.enter(guest()) for _ in range(8)]
    with pytest.raises(RateLimited) as caught:
        limits.enter(guest())
    assert caught.value.wire_code == "too_many_in_flight"
    limits.enter(guest("user_2"))
    limits.leave(open_ones[0])
    limits.enter(guest())


def test_a_refused_request_costs_nothing(clock: Clock) -> None:
    limits = Limits(lambda: 1, clock)
    standings = [limits.enter(guest(rpm=10)) for _ in range(8)]
    for _ in range(20):
        with pytest.raises(RateLimited):
            limits.enter(guest(rpm=10))
    limits.leave(standings[0])
    limits.enter(guest(rpm=10))


def test_edges_share_the_limits(clock: Clock) -> None:
    limits = Limits(lambda: 2, clock)
    taken, _ = count_until_refused(lambda: limits.leave(limits.enter(guest())))
    assert taken == 30
    in_flight, _ = count_until_refused(lambda: limits.enter(guest("user_2")))
    assert in_flight == 4


def test_a_limit_is_never_divided_to_nothing(clock: Clock) -> None:
    limits = Limits(lambda: 10, clock)
    limits.enter(guest(rpm=1, in_flight=1))


def test_a_key_has_limits_of_its_own(clock: Clock) -> None:
    """Two keys of one owner: what one has used says nothing about the other."""
    limits = Limits(lambda: 1, clock)
    one, other = (
        Principal("user_1", "u", "api_key", key_id=key_id, rpm=2) for key_id in ("key_1", "key_2")
    )
    for key in (one, other):
        assert count_until_refused(lambda key=key: limits.enter(key))[0] == 2  # type: ignore[misc]


def test_no_limit_is_none(clock: Clock) -> None:
    limits = Limits(lambda: 1, clock)
    for _ in range(1000):
        limits.enter(guest(rpm=0, in_flight=0))


def test_those_who_are_gone_are_forgotten(clock: Clock) -> None:
    limits = Limits(lambda: 1, clock)
    staying = limits.enter(guest("staying"))
    for number in range(5000):
        clock.now += 0.1
        limits.leave(limits.enter(guest(f"user_{number}")))
    assert len(limits) < 2000
    assert limits.enter(guest("staying")) is staying


def test_an_address_may_create_so_many_guests_an_hour(clock: Clock) -> None:
    creations = Creations(60, lambda: 1, clock)
    taken, error = count_until_refused(lambda: creations.take("192.0.2.1"))
    assert (taken, error.wire_code) == (60, "too_many_guests")
    assert error.retry_after == pytest.approx(60.0)
    creations.take("192.0.2.2")


def test_an_ipv6_network_counts_as_one_address() -> None:
    assert network_of("2001:db8::1") == network_of("2001:db8::ffff:1")
    assert network_of("2001:db8::1") != network_of("2001:db8:0:1::1")
    assert network_of("::ffff:192.0.2.1") != network_of("::ffff:192.0.2.2")
    assert network_of("a socket") == "a socket"
