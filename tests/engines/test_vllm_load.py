"""How many sequences the vllm engine asks for."""

import pytest

from workers.inference.engines.vllm_serving.load import Load

LONGEST = 1000


def _load(
    capacity: int | None = 4200, most: int = 64, ended: list[int] | None = None, block: int = 1
) -> Load:
    load = Load()
    load.begin(most, LONGEST, capacity, block)
    for length in ended or []:
        load.ended(length)
    return load


def test_at_first_as_many_as_have_room_at_full_length() -> None:
    assert _load().limit(0) == 3
    assert _load().limit(2) == 3
    assert _load().limit(3) == 3


def test_there_is_always_one() -> None:
    assert _load(capacity=800).limit(0) == 1
    assert _load(capacity=800).limit(1) == 1


def test_short_sequences_make_room_for_more_bit_by_bit() -> None:
    limits = [_load(ended=[100] * count).limit(0) for count in (0, 1, 8, 31, 32)]
    assert limits == [3, 7, 19, 31, 39]
    assert _load(ended=[10] * 32).limit(0) == 64, "no more than vLLM has at all"


def test_long_sequences_take_the_room_back() -> None:
    assert _load(ended=[100] * 32 + [LONGEST] * 32).limit(0) == 3


def test_a_sequence_takes_whole_blocks_of_the_cache() -> None:
    assert _load(ended=[10] * 32, block=100).limit(0) == 39


def test_each_that_runs_keeps_the_place_of_a_whole_one() -> None:
    load = _load(ended=[100] * 32)
    load.said(0, 0, 0.1)  # they have just begun
    assert load.limit(30) == 39


def test_what_takes_more_than_it_was_given_takes_it_from_others() -> None:
    load = _load(ended=[100] * 32)
    load.said(0, 0, 0.8)  # of 4200 tokens, by ten that were given 1000
    assert load.limit(10) == 16
    load.said(0, 0, 0.97)
    assert load.limit(10) == 10


def test_none_more_while_some_wait() -> None:
    load = _load(ended=[100] * 32)
    load.said(0, 3, 0.1)
    assert load.limit(10) == 10


def test_what_was_said_of_runs_that_are_gone_does_not_count() -> None:
    load = _load(ended=[100] * 32)
    load.said(0, 3, 0.97)
    assert load.limit(0) == 39


@pytest.mark.parametrize(("cache", "limit"), [(0.5, 64), (0.97, 10)])
def test_an_unknown_capacity_leaves_it_to_what_vllm_says(cache: float, limit: int) -> None:
    load = _load(capacity=None)
    load.said(0, 0, cache)
    assert load.limit(10) == limit


def test_engines_share_the_runs() -> None:
    load = _load(ended=[100] * 32)
    load.said(0, 0, 0.9)
    load.said(1, 0, 0.7)
    assert load.limit(10) == 16
    load.said(1, 1, 0.7)
    assert load.limit(10) == 10
