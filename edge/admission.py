"""Which deployments may serve a request, in the order to try them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from schemas.catalogue import Catalogue, Deployment, Model
from schemas.commands import Kind, Target
from schemas.errors import InvalidRequest, ModelNotFound

CAPABILITY: Final[Mapping[Kind, str]] = {
    "chat": "chat",
    "completion": "completions",
    "embedding": "embeddings",
    "count": "chat",
}


@dataclass(slots=True)
class _Turn:
    """A deployment and its standing in the smooth weighted round robin."""

    target: Target
    weight: int
    current: int = 0


@dataclass(slots=True)
class _Route:
    """A model's deployments: groups of one priority each, the first to be tried first."""

    capabilities: frozenset[str]
    groups: list[list[_Turn]] = field(default_factory=list)

    def order(self) -> list[Target]:
        if len(self.groups) == 1 and len(self.groups[0]) == 1:
            return [self.groups[0][0].target]
        return [target for group in self.groups for target in _take_turns(group)]


class Admission:
    """The catalogue as admission needs it; `update` replaces it."""

    def __init__(self, catalogue: Catalogue | None = None) -> None:
        self._routes: dict[str, _Route] = {}
        self._down: frozenset[str] = frozenset()
        self.update(catalogue or Catalogue())

    def update(self, catalogue: Catalogue) -> None:
        """Serve what this catalogue says from now on."""
        self._routes = {model.id: _to_route(model) for model in catalogue.models}

    def avoid(self, deployments: Iterable[str]) -> None:
        """Try these deployments last from now on: they are failing."""
        self._down = frozenset(deployments)

    def targets(self, model: str, kind: Kind) -> list[Target]:
        """Order a model's deployments: those that work, by priority, then in weighted turns.

        Raises ModelNotFound, or InvalidRequest if the model can't do what is asked.
        """
        route = self._routes.get(model)
        if route is None or not route.groups:
            raise ModelNotFound(f"the model {model!r} does not exist", param="model")
        if route.capabilities and CAPABILITY[kind] not in route.capabilities:
            raise InvalidRequest(
                f"the model {model!r} does not support {CAPABILITY[kind]}",
                param="model",
                code="model_not_supported",
            )
        targets = route.order()
        if self._down:
            targets.sort(key=lambda target: target.deployment in self._down)
        return targets


def _to_route(model: Model) -> _Route:
    groups: dict[int, list[_Turn]] = {}
    for deployment in model.deployments:
        groups.setdefault(deployment.priority, []).append(_to_turn(deployment))
    return _Route(frozenset(model.capabilities), [groups[number] for number in sorted(groups)])


def _to_turn(deployment: Deployment) -> _Turn:
    return _Turn(Target(deployment.id, deployment.pool), max(1, deployment.weight))


def _take_turns(group: list[_Turn]) -> list[Target]:
    """One step of smooth weighted round robin: who is most owed comes first."""
    for turn in group:
        turn.current += turn.weight
    ordered = sorted(group, key=lambda turn: -turn.current)
    ordered[0].current -= sum(turn.weight for turn in group)
    return [turn.target for turn in ordered]
