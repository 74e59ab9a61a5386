"""Which deployments may serve a request, in the order to try them."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Protocol

from schemas.api.needs import PREFERRED, Needs
from schemas.catalogue import Catalogue, Deployment, Model
from schemas.commands import Kind, Target
from schemas.errors import InvalidRequest, ModelNotFound

CAPABILITY: Final[Mapping[Kind, str]] = {
    "chat": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "count": "chat",
    "response": "chat",
}
_NOTHING: Final[Needs] = MappingProxyType({})


class Standing(Protocol):
    """How deployments are doing."""

    def rank(self, deployment: str, pool: str) -> int:
        """0 for one that works; the higher, the later it is tried."""

    def load(self, deployment: str) -> int:
        """How many runs are at it, as far as is known."""


class AllWell:
    """Nothing is known against any deployment."""

    def rank(self, deployment: str, pool: str) -> int:  # noqa: ARG002
        """None is worse than another."""
        return 0

    def load(self, deployment: str) -> int:  # noqa: ARG002
        """None is busier than another."""
        return 0


@dataclass(slots=True, eq=False)
class _Turn:
    """A deployment and its standing in the smooth weighted round robin."""

    target: Target
    weight: int
    priority: int
    capabilities: frozenset[str]
    current: int = 0

    def can(self, capability: str) -> bool:
        """Whether it can do this; one of which nothing is known may do all."""
        return not self.capabilities or capability in self.capabilities


class Admission:
    """The catalogue as admission needs it; `update` replaces it."""

    def __init__(
        self, catalogue: Catalogue | None = None, standing: Standing | None = None
    ) -> None:
        self._routes: dict[str, list[_Turn]] = {}
        self._standing: Standing = standing or AllWell()
        self.update(catalogue or Catalogue())

    def update(self, catalogue: Catalogue) -> None:
        """Serve what this catalogue says from now on."""
        before = {
            (name, turn.target.deployment): turn
            for name, turns in self._routes.items()
            for turn in turns
        }
        self._routes = {model.id: _to_turns(model) for model in catalogue.models}
        for name, turns in self._routes.items():
            _keep_turns(turns, [before.get((name, turn.target.deployment)) for turn in turns])

    def targets(self, model: str, kind: Kind, needs: Needs = _NOTHING) -> list[Target]:
        """Order the deployments that can do it: by health, by priority, then in weighted turns.

        Raises ModelNotFound, or InvalidRequest naming the field that asks for what none can do.
        """
        turns = self._routes.get(model)
        if not turns:
            raise ModelNotFound(f"the model {model!r} does not exist", param="model")
        able = _require(turns, CAPABILITY[kind], model, "model")
        liked: frozenset[_Turn] = frozenset()
        for capability, param in needs.items():
            if capability in PREFERRED:
                liked = frozenset(turn for turn in able if turn.can(capability))
            else:
                able = _require(able, capability, model, param)
        if len(able) == 1:
            return [able[0].target]
        return [turn.target for turn in self._order(able, liked)]

    def _order(self, able: list[_Turn], liked: frozenset[_Turn]) -> list[_Turn]:
        rank, load = self._standing.rank, self._standing.load
        groups: dict[tuple[int, bool, int], list[_Turn]] = {}
        for turn in able:
            target = turn.target
            key = (rank(target.deployment, target.pool), turn not in liked, turn.priority)
            groups.setdefault(key, []).append(turn)
        first, *others = sorted(groups)
        # Only the first group has a turn: the others must not pay for what they do not get.
        ordered = _take_turns(groups[first], load)
        for key in others:
            ordered += sorted(groups[key], key=lambda turn: -turn.current - turn.weight)
        return ordered


def _require(able: list[_Turn], capability: str, model: str, param: str) -> list[_Turn]:
    left = [turn for turn in able if turn.can(capability)]
    if left:
        return left
    raise InvalidRequest(
        f"the model {model!r} does not support {capability}",
        param=param,
        code="model_not_supported",
    )


def _to_turns(model: Model) -> list[_Turn]:
    # A catalogue of an older release tells capabilities of the model only.
    told = any(deployment.capabilities for deployment in model.deployments)
    return [
        _to_turn(deployment, deployment.capabilities if told else model.capabilities)
        for deployment in model.deployments
    ]


def _to_turn(deployment: Deployment, capabilities: Iterable[str]) -> _Turn:
    return _Turn(
        Target(deployment.id, deployment.pool),
        max(1, deployment.weight),
        deployment.priority,
        frozenset(capabilities),
    )


def _keep_turns(turns: list[_Turn], before: list[_Turn | None]) -> None:
    """Go on with the turns where they stood, if the new catalogue has the same ones."""
    if all(
        old is not None and old.weight == new.weight for new, old in zip(turns, before, strict=True)
    ):
        for new, old in zip(turns, before, strict=True):
            new.current = old.current if old else 0


def _take_turns(group: list[_Turn], load: Callable[[str], int]) -> list[_Turn]:
    """One step of smooth weighted round robin: who is most owed comes first, then who idles."""
    if len(group) == 1:
        return group
    for turn in group:
        turn.current += turn.weight
    ordered = sorted(group, key=lambda turn: (-turn.current, load(turn.target.deployment)))
    ordered[0].current -= sum(turn.weight for turn in group)
    return ordered
