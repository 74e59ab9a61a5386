"""Engines: what turns a request into text. One module each, and one line in ENGINES."""

from workers.inference.engines.contract import (
    BACKLOG_LIMIT,
    Captured,
    CapturedChoice,
    Engine,
    Generation,
    Outcome,
    Sink,
)

__all__ = [
    "BACKLOG_LIMIT",
    "Captured",
    "CapturedChoice",
    "Engine",
    "Generation",
    "Outcome",
    "Sink",
]
