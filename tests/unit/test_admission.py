"""Admission: which deployment is tried first, and which requests have none."""

from collections import Counter

import pytest

from edge.admission import Admission
from schemas.catalogue import Catalogue, Deployment, Model
from schemas.errors import InvalidRequest, ModelNotFound


def _admission(*deployments: Deployment, capabilities: list[str] | None = None) -> Admission:
    model = Model("m", 0, "us", list(deployments), capabilities or [])
    return Admission(Catalogue([model]))


def _firsts(admission: Admission, times: int) -> list[str]:
    return [admission.targets("m", "chat")[0].deployment for _ in range(times)]


def test_an_unknown_model_is_not_found() -> None:
    with pytest.raises(ModelNotFound) as caught:
        _admission().targets("other", "chat")
    assert caught.value.param == "model"


def test_a_model_without_deployments_is_not_found() -> None:
    with pytest.raises(ModelNotFound):
        _admission().targets("m", "chat")


def test_a_model_that_can_not_do_it_is_refused() -> None:
    admission = _admission(Deployment("a/m", "remote"), capabilities=["embeddings"])

    with pytest.raises(InvalidRequest):
        admission.targets("m", "chat")
    assert admission.targets("m", "embedding")


def test_the_lower_priority_number_is_tried_first() -> None:
    admission = _admission(
        Deployment("backup/m", "remote", priority=5), Deployment("main/m", "local", priority=0)
    )

    targets = admission.targets("m", "chat")

    assert [target.deployment for target in targets] == ["main/m", "backup/m"]
    assert [target.pool for target in targets] == ["local", "remote"]


def test_equal_priorities_share_by_weight() -> None:
    admission = _admission(
        Deployment("a/m", "p", weight=5), Deployment("b/m", "p", weight=1), Deployment("c/m", "p")
    )

    assert Counter(_firsts(admission, 70)) == {"a/m": 50, "b/m": 10, "c/m": 10}


def test_the_turns_are_smooth() -> None:
    admission = _admission(
        Deployment("a/m", "p", weight=5), Deployment("b/m", "p"), Deployment("c/m", "p")
    )

    assert _firsts(admission, 7) == ["a/m", "a/m", "b/m", "a/m", "c/m", "a/m", "a/m"]


def test_all_deployments_are_in_every_order() -> None:
    admission = _admission(Deployment("a/m", "p"), Deployment("b/m", "p", weight=3))

    for _ in range(5):
        targets = admission.targets("m", "chat")
        assert {target.deployment for target in targets} == {"a/m", "b/m"}


class Seen:
    """What is known of deployments."""

    def __init__(self) -> None:
        self.ranks: dict[str, int] = {}
        self.loads: dict[str, int] = {}

    def rank(self, deployment: str, pool: str) -> int:  # noqa: ARG002
        return self.ranks.get(deployment, 0)

    def load(self, deployment: str) -> int:
        return self.loads.get(deployment, 0)


def _seen(*deployments: Deployment) -> tuple[Admission, Seen]:
    seen = Seen()
    return Admission(Catalogue([Model("m", 0, "us", list(deployments))]), seen), seen


def test_a_failing_deployment_comes_last() -> None:
    admission, seen = _seen(Deployment("a/m", "p", priority=0), Deployment("b/m", "p", priority=1))
    seen.ranks["a/m"] = 1

    assert _firsts(admission, 3) == ["b/m"] * 3


def test_those_that_work_share_by_weight_while_one_is_down_and_after_it_is_back() -> None:
    admission, seen = _seen(
        Deployment("a/m", "p", weight=5),
        Deployment("b/m", "p", weight=3),
        Deployment("c/m", "p", weight=2),
    )

    for down, shares in (
        (None, {"a/m": 500, "b/m": 300, "c/m": 200}),
        ("a/m", {"b/m": 600, "c/m": 400}),
        (None, {"a/m": 500, "b/m": 300, "c/m": 200}),
    ):
        seen.ranks = {down: 1} if down else {}
        counts = Counter(_firsts(admission, 1000))
        assert all(abs(counts[name] - share) <= 2 for name, share in shares.items())
        assert set(counts) == set(shares)


def test_the_less_busy_one_comes_first_where_turns_are_equal() -> None:
    admission, seen = _seen(Deployment("a/m", "p"), Deployment("b/m", "p"))
    seen.loads["a/m"] = 3

    assert _firsts(admission, 2) == ["b/m", "a/m"]


def _able() -> Admission:
    return _admission(
        Deployment("plain/m", "p", capabilities=["chat"], weight=9),
        Deployment("tools/m", "p", capabilities=["chat", "tools"]),
        Deployment("eyes/m", "p", capabilities=["chat", "vision"]),
    )


def test_only_deployments_that_can_do_what_is_needed_are_tried() -> None:
    targets = _able().targets("m", "chat", {"tools": "tools"})

    assert [target.deployment for target in targets] == ["tools/m"]


def test_what_no_deployment_can_do_is_refused_by_name() -> None:
    for needs, param in (
        ({"json_schema": "response_format"}, "response_format"),
        ({"tools": "tools", "vision": "messages[2].content[1]"}, "messages[2].content[1]"),
    ):
        with pytest.raises(InvalidRequest) as caught:
            _able().targets("m", "chat", needs)
        assert (caught.value.param, caught.value.wire_code) == (param, "model_not_supported")


def test_a_deployment_of_which_nothing_is_known_may_do_all() -> None:
    admission = _admission(
        Deployment("a/m", "p", capabilities=["chat"]), Deployment("b/m", "p", capabilities=[])
    )

    targets = admission.targets("m", "chat", {"vision": "messages[0].content[0]"})

    assert [target.deployment for target in targets] == ["b/m"]


def test_reasoning_is_preferred_and_never_refused() -> None:
    admission = _admission(
        Deployment("a/m", "p", capabilities=["chat"], weight=100),
        Deployment("b/m", "p", capabilities=["chat", "reasoning"]),
    )

    needs = {"reasoning": "reasoning_effort"}
    assert [one.deployment for one in admission.targets("m", "chat", needs)] == ["b/m", "a/m"]
    assert _able().targets("m", "chat", needs)


def test_turns_go_on_when_the_same_deployments_are_told_again() -> None:
    deployments = [Deployment("a/m", "p"), Deployment("b/m", "p")]
    admission = _admission(*deployments)
    assert _firsts(admission, 1) == ["a/m"]
    admission.update(Catalogue([Model("m", 0, "us", deployments)]))

    assert _firsts(admission, 1) == ["b/m"]


def test_a_new_catalogue_replaces_the_old() -> None:
    admission = _admission(Deployment("a/m", "p"))
    admission.update(Catalogue([Model("n", 0, "us", [Deployment("a/n", "p")])]))

    assert admission.targets("n", "chat")
    with pytest.raises(ModelNotFound):
        admission.targets("m", "chat")
