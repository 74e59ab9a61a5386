"""Run ids: sortable, and only their owner's."""

import time

from hypothesis import given
from hypothesis import strategies as st

from schemas import ids

SECRET = b"s" * 32
_NAMES = st.text(alphabet=st.characters(codec="utf-8"))


@given(_NAMES, _NAMES)
def test_a_run_id_is_its_owners_and_nobody_elses(owner: str, other: str) -> None:
    run_id = ids.new_run_id(owner, SECRET)

    assert ids.is_owner(run_id, owner, SECRET)
    if other != owner:
        assert not ids.is_owner(run_id, other, SECRET)
    assert not ids.is_owner(run_id, owner, b"another")


@given(st.text(alphabet="0123456789abcdefghjkmnpqrstvwxyz", min_size=26, max_size=26))
def test_an_id_that_nobody_made_is_nobodys(unique: str) -> None:
    assert not ids.is_owner(f"run_{unique}", "alice", SECRET)


def test_public_ids_lead_back_to_the_run() -> None:
    run_id = ids.new_run_id("alice", SECRET)

    for kind in ("chat", "completion", "embedding"):
        assert ids.run_id_of(ids.public_id(run_id, kind)) == run_id
        assert ids.run_id_of(ids.public_id(run_id, kind), kind) == run_id
    assert ids.run_id_of(run_id) == run_id
    assert ids.run_id_of(ids.public_id(run_id, "chat"), "completion") is None
    assert ids.run_id_of("chatcmpl-../../x") is None


def test_an_id_tells_when_it_was_made() -> None:
    before = time.time() * 1000 - 1
    made = ids.created_ms(ids.new_run_id("alice", SECRET))

    assert before <= made <= time.time() * 1000
