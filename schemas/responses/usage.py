"""Tokens of a response: the sum over its steps."""

from dataclasses import dataclass
from typing import Any

import msgspec


class _Details(msgspec.Struct):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    completion_tokens_details: _Details | None = None


_decode_usage = msgspec.json.Decoder(_Usage).decode


@dataclass(slots=True)
class UsageSum:
    """What the steps have used so far; a step whose engine does not count adds nothing."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0

    def add(self, usage: bytes | msgspec.Raw | None) -> None:
        """Add a step's usage, as chat has it."""
        if usage is None:
            return
        try:
            told = _decode_usage(usage)
        except msgspec.DecodeError:
            return  # the upstream counts in its own way
        self.input_tokens += told.prompt_tokens or 0
        self.output_tokens += told.completion_tokens or 0
        if told.prompt_tokens_details is not None:
            self.cached_tokens += told.prompt_tokens_details.cached_tokens or 0
            self.cache_write_tokens += told.prompt_tokens_details.cache_write_tokens or 0
        if told.completion_tokens_details is not None:
            self.reasoning_tokens += told.completion_tokens_details.reasoning_tokens or 0

    def to_wire(self) -> dict[str, Any]:
        """As a response has it."""
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {
                "cached_tokens": self.cached_tokens,
                "cache_write_tokens": self.cache_write_tokens,
            },
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }

    def to_chat(self) -> dict[str, Any]:
        """As a run has it, whatever its kind: by this usage is counted."""
        return {
            "prompt_tokens": self.input_tokens,
            "completion_tokens": self.output_tokens,
            "total_tokens": self.input_tokens + self.output_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
            "completion_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
        }
