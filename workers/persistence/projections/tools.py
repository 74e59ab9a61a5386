"""From the facts about calls of tools to where they lie: among those of the run that made the call.

A call that a client makes by itself is a thing of its own.
"""

from datetime import UTC, datetime

import msgspec

from workers.persistence.facts import Fact
from workers.persistence.projections import entities
from workers.persistence.projections.runs import EventRow, Rows, to_text

NOUN = "tool"


class _Call(msgspec.Struct):
    call_id: str
    at: float
    parent: str = ""
    principal: str = ""


_decode_call = msgspec.json.Decoder(_Call).decode


def is_about_call(fact: Fact) -> bool:
    """Tell whether a fact is about a call: also one that was told again, without what was said."""
    return NOUN in (fact.noun, fact.verb if fact.noun == "erased" else "")


def fold(of_runs: Rows, of_entities: list[entities.Row], fact: Fact) -> None:
    """Add a fact to a batch. Raises DecodeError or ValueError if it can't be read."""
    call = _decode_call(fact.data)
    verb = to_text(f"{fact.noun}.{fact.verb}")
    if call.parent:
        run_id = to_text(call.parent)
        of_runs.events[run_id, fact.seq] = EventRow(run_id, fact.seq, verb, call.at)
        if verb == "tool.finished":
            of_runs.parents.add(run_id)
        return
    of_entities.append(
        {
            "entity": to_text(call.call_id),
            "seq": fact.seq,
            "verb": verb,
            "principal": to_text(call.principal),
            "at": datetime.fromtimestamp(call.at, UTC),
        }
    )
