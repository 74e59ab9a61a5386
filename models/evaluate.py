"""Measures jan-tiny as the server runs it, by llama.cpp: `python -m models.evaluate`.

It needs none of the libraries of the training, except for `--perplexity`.
"""

import argparse
import itertools
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import xllamacpp

from models import text

FILE = Path(__file__).parent / "jan-tiny.gguf"
REPORT = Path(__file__).parent / "evaluation.json"
CONTEXT = 2048
WARM = 0.7  # the temperature of the second pass
SEEDS = 3  # answers of the second pass to each question
Scores = dict[str, list[bool]]


class Model:
    """A GGUF file behind llama.cpp's own chat handler."""

    def __init__(self, path: Path, *, verbose: bool = False) -> None:
        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = CONTEXT
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.use_jinja = True
        params.warmup = False
        params.verbosity = -1
        self._server = xllamacpp.Server(params)
        self._verbose = verbose

    def chat(self, messages: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        """Answer a request in OpenAI's form."""
        body = {"messages": messages, "temperature": 0, "max_tokens": 400, **fields}
        found: list[dict[str, Any]] = []
        self._server.handle_chat_completions(json.dumps(body), _collect(found))
        if self._verbose:
            print(json.dumps([messages[-1], found[0].get("choices", found[0])], ensure_ascii=False))
        return found[0]

    def say(self, question: str, **fields: Any) -> tuple[str, bool]:
        """Answer a question; and whether the answer came to its end."""
        choice = self.chat([*fields.pop("before", ()), user(question)], **fields)["choices"][0]
        return choice["message"].get("content") or "", choice["finish_reason"] == "stop"


def _collect(found: list[dict[str, Any]]) -> Any:
    def collect(answer: Any) -> None:
        found.append(json.loads(answer) if isinstance(answer, (str, bytes)) else answer)

    return collect


def user(content: str) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


def has(answer: str, facts: tuple[str, ...]) -> bool:
    """Whether the answer has all the facts."""
    return all(fact.lower() in answer.lower() for fact in facts)


def topics(model: Model, **fields: Any) -> Scores:
    """By topic: do answers to questions that were in no training text have what they must?"""
    scores: Scores = defaultdict(list)
    beyond = text.load("beyond")
    cases = [(i.topic, q, i.facts) for i in text.load_intents() for q in i.held]
    cases += [("Out of scope", q, tuple(beyond["facts"])) for q in beyond["held"]]
    for topic, question, facts in cases:
        answer, ended = model.say(_as_written(question), **fields)
        scores[topic].append(ended and has(answer, facts))
        if not scores[topic][-1]:
            print(f"- {topic}: {question!r} gave {answer[:90]!r}")
    return scores


def _as_written(question: str) -> str:
    return question[0].upper() + question[1:]


def to_tool(case: dict[str, Any]) -> dict[str, Any]:
    """The tool of a case, in OpenAI's form."""
    properties = {name: {"type": kind} for name, kind in case["parameters"].items()}
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    description = case["name"].replace("_", " ").capitalize()
    function = {"name": case["name"], "description": description, "parameters": schema}
    return {"type": "function", "function": function}


def tool_calls(model: Model, cases: list[dict[str, Any]], others: int) -> tuple[list[bool], ...]:
    """For each case: was a tool called, the right one, with exactly the right arguments?"""
    called, right, exact = [], [], []
    for index, case in enumerate(cases):
        rest = [other for other in cases if other["name"] != case["name"]]
        offered = [case, *(rest[(index * 5 + n) % len(rest)] for n in range(others))]
        offered = sorted({tool["name"]: tool for tool in offered}.values(), key=lambda t: t["ask"])
        answer = model.chat([user(case["ask"])], tools=[to_tool(tool) for tool in offered])
        calls = answer["choices"][0]["message"].get("tool_calls") or []
        called.append(bool(calls))
        right.append(bool(calls) and calls[0]["function"]["name"] == case["name"])
        arguments = _parse(calls[0]["function"]["arguments"]) if calls else None
        exact.append(right[-1] and arguments == case["arguments"])
        if not exact[-1]:
            print(f"- {case['name']}: {case['ask']!r} gave {calls or answer['choices']}")
    return called, right, exact


def _parse(arguments: str) -> Any:
    try:
        return json.loads(arguments)
    except ValueError:
        return None


def tool_results(model: Model) -> list[bool]:
    """Does the answer after a tool's result have the result?"""
    scores = []
    for case in text.load("held")["results"]:
        function = {"name": case["name"], "arguments": json.dumps(case["arguments"])}
        call = {"id": "call_1", "type": "function", "function": function}
        messages = [
            user(case["ask"]),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": case["result"]},
        ]
        answer = model.chat(messages, tools=[to_tool(case)])["choices"][0]["message"]
        scores.append(has(answer.get("content") or "", tuple(case["needs"])))
        if not scores[-1]:
            print(f"- {case['name']}: {case['result']!r} gave {answer}")
    return scores


def histories(model: Model) -> list[bool]:
    """Held-out questions after three other turns and under a system message."""
    intents = text.load_intents()
    scores = []
    for index, intent in enumerate(intents):
        before = [{"role": "system", "content": "You are a helpful assistant."}]
        for step in (7, 19, 41):
            other = intents[(index + step) % len(intents)]
            before += [user(other.held[0]), {"role": "assistant", "content": other.answer[0]}]
        answer, ended = model.say(intent.held[0], before=before)
        scores.append(ended and has(answer, intent.facts))
    return scores


def perplexity(path: Path) -> float:
    """Per token of the right answers to the held-out questions, with the quantized weights."""
    import torch  # noqa: PLC0415

    from models.export import to_tokenizer  # noqa: PLC0415
    from models.gguf_file import Reader  # noqa: PLC0415
    from models.network import Network, Shape  # noqa: PLC0415
    from models.vocabulary import Renderer, encode  # noqa: PLC0415

    reader = Reader(path)
    tokenizer = to_tokenizer(reader.tokens(), reader.merges())
    network = Network(Shape())
    network.load_state_dict({n: torch.from_numpy(w.copy()) for n, w in reader.weights().items()})
    lost, count = 0.0, 0
    for intent in text.load_intents():
        for question in intent.held:
            answer = {"role": "assistant", "content": intent.answer[0]}
            conversation = text.Conversation([user(_as_written(question)), answer], [])
            ids, targets = encode(conversation, tokenizer, Renderer())
            with torch.no_grad():
                logits = network.logits(network(torch.tensor([ids[:-1]])))[0]
            wanted = torch.tensor(targets[1:])
            right = torch.tensor(ids[1:])[wanted]
            lost += torch.nn.functional.cross_entropy(logits[wanted], right, reduction="sum").item()
            count += len(right)
    return float(torch.tensor(lost / count).exp())


def main() -> None:
    """Measure, print a table, and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("gguf", type=Path, nargs="?", default=FILE)
    parser.add_argument("--perplexity", action="store_true", help="needs torch")
    parser.add_argument("--write", action="store_true", help=f"write {REPORT.name}")
    parser.add_argument("--verbose", action="store_true", help="print every answer")
    args = parser.parse_args()
    report = measure(Model(args.gguf, verbose=args.verbose))
    if args.perplexity:
        report["perplexity of held-out answers"] = round(perplexity(args.gguf), 3)
    for name, figure in report.items():
        print(f"| {name} | {figure} |")
    if args.write:
        REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def measure(model: Model) -> dict[str, Any]:
    """All figures, as "right of all", by name."""
    report: dict[str, Any] = {}
    cold = topics(model)
    warm: Scores = defaultdict(list)
    for seed in range(SEEDS):
        for topic, scores in topics(model, temperature=WARM, seed=seed).items():
            warm[topic] += scores
    for topic, scores in cold.items():
        report[topic] = f"{_share(scores)}; at temperature {WARM}: {_share(warm[topic])}"
    everything = [*itertools.chain.from_iterable(cold.values())]
    everything_warm = [*itertools.chain.from_iterable(warm.values())]
    report["All topics"] = f"{_share(everything)}; at temperature {WARM}: {_share(everything_warm)}"
    report["After three other turns"] = _share(histories(model))
    held = text.load("held")
    for name, cases, others in (
        ("Known tool, alone", held["tools"], 0),
        ("Known tool among four", held["tools"], 3),
        ("Unknown tool, alone", held["unknown"], 0),
        ("Unknown tool among four", held["unknown"], 3),
    ):
        called, right, exact = tool_calls(model, cases, others)
        report[name] = f"called {_share(called)}, right {_share(right)}, exact {_share(exact)}"
    report["Answers with a tool's result"] = _share(tool_results(model))
    return report


def _share(scores: list[bool]) -> str:
    return f"{sum(scores)} of {len(scores)}"


if __name__ == "__main__":
    main()
