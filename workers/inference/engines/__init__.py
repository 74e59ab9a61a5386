"""Engines: what turns a request into text. One module each, and one line in ENGINES."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from schemas.providers import Provider
from workers.inference.engines.anthropic import AnthropicEngine
from workers.inference.engines.contract import (
    BACKLOG_LIMIT,
    Captured,
    CapturedChoice,
    Engine,
    Generation,
    Measured,
    Outcome,
    Sink,
    Tell,
)
from workers.inference.engines.llamacpp import LlamacppEngine
from workers.inference.engines.openai import OpenAIEngine
from workers.inference.engines.simulated import SimulatedEngine
from workers.inference.engines.vllm import VllmEngine

__all__ = [
    "BACKLOG_LIMIT",
    "ENGINES",
    "Captured",
    "CapturedChoice",
    "Engine",
    "Generation",
    "Measured",
    "Outcome",
    "Sink",
    "Tell",
]

# Making an engine loads nothing: libraries that are large or optional are imported in its `open`.
ENGINES: Mapping[str, Callable[[Provider], Engine]] = MappingProxyType(
    {
        "anthropic": AnthropicEngine,
        "llamacpp": LlamacppEngine,
        "openai": OpenAIEngine,
        "simulated": SimulatedEngine,
        "vllm": VllmEngine,
    }
)
