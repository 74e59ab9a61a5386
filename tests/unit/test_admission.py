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


def test_a_failing_deployment_comes_last() -> None:
    admission = _admission(Deployment("a/m", "p", priority=0), Deployment("b/m", "p", priority=1))
    admission.avoid(["a/m"])

    assert _firsts(admission, 3) == ["b/m"] * 3


def test_a_new_catalogue_replaces_the_old() -> None:
    admission = _admission(Deployment("a/m", "p"))
    admission.update(Catalogue([Model("n", 0, "us", [Deployment("a/n", "p")])]))

    assert admission.targets("n", "chat")
    with pytest.raises(ModelNotFound):
        admission.targets("m", "chat")
