"""A replay's report for people: both runs side by side, then what differs."""

import os
import sys

import msgspec

from cli.timeline import printable, show_time
from cli.words import changes, to_text
from schemas.api.replays import Replay
from schemas.transcripts import ChoiceComparison, Comparison, ToolCall, Transcript

_RESET, _RED, _GREEN, _DIM = "\x1b[0m", "\x1b[31m", "\x1b[32m", "\x1b[2m"
_NOTHING = "-"


def in_colour() -> bool:
    """Whether whoever reads stdout sees colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def to_report(replay: Replay, *, colour: bool) -> str:
    """Write a report."""
    original, again, comparison = replay.original, replay.replay, replay.comparison
    assert isinstance(original, Transcript)
    assert isinstance(again, Transcript)
    assert isinstance(comparison, Comparison)
    lines = [*_table(original, again), ""]
    for choice in comparison.choices:
        lines += _choice(choice, original, again, colour)
    if comparison.similarity is not None:
        lines.append(f"vectors: cosine similarity {comparison.similarity:.6f} at least")
    if original.input_tokens != again.input_tokens:
        lines.append(f"input tokens: {original.input_tokens}, then {again.input_tokens}")
    lines += [paint(f"note: {printable(note)}", _DIM, colour) for note in comparison.notes]
    verdict = ("same", _GREEN) if comparison.same else ("different", _RED)
    return "\n".join([*lines, paint(*verdict, colour)])


def paint(text: str, code: str, colour: bool) -> str:
    """Colour a text, if it is to be coloured."""
    return f"{code}{text}{_RESET}" if colour else text


def seconds(value: float | None) -> str:
    """A duration, or that it is not known."""
    return show_time(value) if value is not None else _NOTHING


def error_of(transcript: Transcript) -> str:
    """A run's error in a few words."""
    error = transcript.error
    return f"{error.code or error.type}: {error.message}" if error is not None else _NOTHING


def _table(original: Transcript, again: Transcript) -> list[str]:
    columns = [_cells(original), _cells(again)]
    rows = [["", "original", "replay"]]
    rows += [[name, *(column[name] for column in columns)] for name in columns[0]]
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[place]) for row in rows) for place in range(2)]
    return [f"{row[0]:<{widths[0]}}  {row[1]:<{widths[1]}}  {row[2]}".rstrip() for row in rows]


def _cells(told: Transcript) -> dict[str, str]:
    usage, timing = told.usage, told.timing
    rate = timing.tokens_per_second
    return {
        "run": told.run_id,
        "model": told.model,
        "deployment": told.deployment or _NOTHING,
        "status": told.status,
        "error": error_of(told),
        "finish reason": ", ".join(choice.finish_reason or _NOTHING for choice in told.choices)
        or _NOTHING,
        "prompt tokens": _number(usage.prompt_tokens),
        "completion tokens": _number(usage.completion_tokens),
        "waited": seconds(timing.waited),
        "first token": seconds(timing.first_token),
        "total": seconds(timing.total),
        "tokens/s": f"{rate:,.1f}" if rate is not None else _NOTHING,
    }


def _number(count: int | None) -> str:
    return f"{count:,}" if count is not None else _NOTHING


def _choice(
    choice: ChoiceComparison, original: Transcript, again: Transcript, colour: bool
) -> list[str]:
    parts = {
        "text": choice.text,
        "tool calls": choice.tool_calls,
        "finish reason": choice.finish_reason,
    }
    words = [
        paint(*((f"{name} same", _GREEN) if same else (f"{name} different", _RED)), colour)
        for name, same in parts.items()
    ]
    lines = [f"choice {choice.index}: {' · '.join(words)}"]
    one, other = (_find(told, choice.index) for told in (original, again))
    for name in choice.diffs:
        found = changes(one[0].get(name, ""), other[0].get(name, ""))
        clean = [change._replace(text=_printable_lines(change.text)) for change in found]
        lines += _indented(f"{name}: {to_text(clean, colour=colour)}")
    if not choice.tool_calls:
        lines += [paint(f"  - {_call(call)}", _RED, colour) for call in one[1]]
        lines += [paint(f"  + {_call(call)}", _GREEN, colour) for call in other[1]]
    return lines


def _find(told: Transcript, index: int) -> tuple[dict[str, str], list[ToolCall]]:
    for choice in told.choices:
        if choice.index == index:
            return choice.texts, choice.tool_calls
    return {}, []


def _call(call: ToolCall) -> str:
    return printable(f"{call.name}({msgspec.json.encode(call.arguments).decode()})")


def _printable_lines(text: str) -> str:
    return "\n".join(printable(line) for line in text.split("\n"))


def _indented(text: str) -> list[str]:
    return [f"  {line}" for line in text.split("\n")]
