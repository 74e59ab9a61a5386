"""What is measured: each load through the server and straight on the upstream."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from cli.exits import Exit
from cli.launch import environment
from cli.measure.load import Plan, Result
from cli.measure.upstream import FAST, INTERVAL, PACED, TOKENS

RATE = 100.0  # requests a second of a steady load: what is measured is never the queue
HISTORY = [
    {"role": "user", "content": "How does a message find its way? " * 4},
    {"role": "assistant", "content": "From hand to hand, as long as there is one. " * 4},
] * 2


@dataclass(frozen=True)
class Scenario:
    """One kind of load, with so many requests in flight."""

    name: Literal[
        "plain", "stream", "paced", "stored", "stored-plain", "kept", "steady", "steady-stored"
    ]
    in_flight: int

    @property
    def conversations(self) -> int:
        """How many conversations its requests are made in, in turn: none gets long."""
        return {"stored": 512, "stored-plain": 512, "steady-stored": 1024}.get(self.name, 0)

    @property
    def history(self) -> list[dict[str, str]]:
        """What was said before its requests: in a conversation, or in each request itself."""
        return HISTORY if self.name.startswith("steady") else []

    def plan(
        self, url: str, api_key: str, seconds: float, conversations: Sequence[str] = ()
    ) -> Plan:
        """Say how to run it for about so many seconds."""
        paced = self.name == "paced"
        return Plan(
            url=url,
            api_key=api_key,
            model=PACED if paced else FAST,
            stream=self.name in ("stream", "paced", "stored"),
            tokens=TOKENS,
            in_flight=self.in_flight,
            seconds=max(seconds, TOKENS * INTERVAL) if paced else seconds,
            # Real clients do not start in step; spread, the streams' tokens do not come in bursts.
            spread=0.5 if paced else 0.0,
            conversations=list(conversations),
            history=[] if conversations else self.history,
            store=self.name == "kept",
            rate=RATE if self.name.startswith("steady") else 0.0,
        )


SCENARIOS = (
    Scenario("plain", 1),
    Scenario("plain", 16),
    Scenario("plain", 64),
    Scenario("stream", 1),
    Scenario("stream", 16),
    Scenario("stream", 64),
    Scenario("paced", 64),
    Scenario("stored", 16),
    Scenario("stored-plain", 16),
    Scenario("kept", 16),
    Scenario("steady", 16),
    Scenario("steady-stored", 16),
)


class Measures(msgspec.Struct):
    """What one load gave; times in milliseconds."""

    requests: int
    failed: int
    seconds: float
    requests_per_second: float
    p50: float
    p99: float
    first_token_p50: float
    first_token_p99: float
    tokens_per_second: float
    tokens: int
    lost: int
    doubled: int
    late: int
    worst_late: float
    first_failure: str = ""


class Row(msgspec.Struct):
    """One scenario's figures: through the server, straight on the upstream, and the cost."""

    scenario: str
    in_flight: int
    server: Measures
    upstream: Measures
    added_p50: float
    added_p99: float
    added_first_token_p50: float
    cpu_us_per_request: dict[str, float]
    cpu_us_per_token: dict[str, float]


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of the values does not exceed; 0 if there are none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] if ordered else 0.0


def to_measures(result: Result) -> Measures:
    """Sum a load's result up."""
    seconds = result.seconds or 1.0
    return Measures(
        requests=result.requests,
        failed=result.failed,
        seconds=result.seconds,
        requests_per_second=result.requests / seconds,
        p50=quantile(result.latency, 0.5),
        p99=quantile(result.latency, 0.99),
        first_token_p50=quantile(result.first_token, 0.5),
        first_token_p99=quantile(result.first_token, 0.99),
        tokens_per_second=result.tokens / seconds,
        tokens=result.tokens,
        lost=result.lost,
        doubled=result.doubled,
        late=result.late,
        worst_late=result.worst_late,
        first_failure=result.first_failure,
    )


def to_row(scenario: Scenario, server: Measures, upstream: Measures, cpu: dict[str, float]) -> Row:
    """Set the two loads against each other."""
    return Row(
        scenario=scenario.name,
        in_flight=scenario.in_flight,
        server=server,
        upstream=upstream,
        added_p50=server.p50 - upstream.p50,
        added_p99=server.p99 - upstream.p99,
        added_first_token_p50=server.first_token_p50 - upstream.first_token_p50,
        cpu_us_per_request=_per(cpu, server.requests),
        cpu_us_per_token=_per(cpu, server.tokens),
    )


def _per(cpu: dict[str, float], count: int) -> dict[str, float]:
    return {part: used * 1e6 / count for part, used in cpu.items()} if count else {}


async def run(plan: Plan) -> Result:
    """Run a load in a process of its own. Raises Exit if it fails or does not end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.measure.load"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env=environment({}),
    )
    try:
        async with asyncio.timeout(plan.seconds + 90):
            output, _ = await process.communicate(msgspec.json.encode(plan))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Exit("the load ended before its time: what it said is above")
    return msgspec.json.decode(output, type=Result)
