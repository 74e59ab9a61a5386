"""Tools for the training text: offers, questions that need one, results, and answers from them."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]
Tool = dict[str, Any]
Say = Callable[..., str]

_KINDS = ("place", "person", "word", "id", "number", "symbol", "made", "made", "phrase")
_ENDINGS = (".txt", ".md", ".py", ".json", ".csv", "")


@dataclass(frozen=True)
class Ability:
    """One offered tool and how it is asked for; parameters as (name, kind of value)."""

    name: str
    parameters: list[tuple[str, str]]
    ask: list[str]
    results: list[str]


@dataclass(frozen=True)
class Offer:
    """The tools of one conversation."""

    tools: list[Tool]
    abilities: list[Ability]


class Toolbox:
    """Makes offers and conversations about them from `text/tools.yaml`."""

    def __init__(self, source: dict[str, Any], rng: random.Random) -> None:
        self._source = source
        self._syllables = source["syllables"].split()
        self._rng = rng

    def made_up(self) -> str:
        """Make up a word, in one of the forms that names have."""
        rng = self._rng
        word = "".join(rng.choice(self._syllables) for _ in range(rng.choice((2, 2, 3))))
        return word.capitalize() if rng.random() < 0.6 else word

    def offer(self) -> Offer:
        """Draw one to four tools."""
        rng = self._rng
        count = rng.choices((1, 2, 3, 4), (45, 28, 17, 10))[0]
        known = rng.sample(self._source["tools"], count)
        pairs = [
            self._made_up_tool() if rng.random() < 0.5 else self._known_tool(entry)
            for entry in known
        ]
        unique = {ability.name: (tool, ability) for tool, ability in pairs}
        return Offer([tool for tool, _ in unique.values()], [a for _, a in unique.values()])

    def turn(self, offer: Offer, say: Say) -> list[Message]:
        """A question that needs a tool, the call; mostly its result and the answer too."""
        rng = self._rng
        ability = rng.choice(offer.abilities)
        question, arguments = self._question(ability)
        messages: list[Message] = [{"role": "user", "content": say(question, exact=True)}]
        calls = [arguments]
        if len(arguments) == 1 and rng.random() < 0.06:  # the same for two values, at once
            (name, first), kind = next(iter(arguments.items())), ability.parameters[0][1]
            second = self._value(kind)
            if isinstance(first, str) and second != first and first in messages[0]["content"]:
                content = messages[0]["content"].replace(first, f"{first} and {second}", 1)
                messages[0]["content"] = content
                calls.append({name: second})
        identity = "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9))
        messages.append(
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {
                        "id": f"call_{identity}{index}",
                        "type": "function",
                        "function": {"name": ability.name, "arguments": call},
                    }
                    for index, call in enumerate(calls)
                ],
            }
        )
        if rng.random() < 0.15:
            return messages
        results = [self._result(ability) for _ in calls]
        messages += [
            {"role": "tool", "content": content, "tool_call_id": f"call_{identity}{index}"}
            for index, (content, _) in enumerate(results)
        ]
        told = "; ".join(dict.fromkeys(text for _, text in results))
        answer = f"According to {ability.name}: {told}"
        messages.append({"role": "assistant", "content": answer})
        return messages

    def _known_tool(self, entry: dict[str, Any]) -> tuple[Tool, Ability]:
        rng = self._rng
        name = rng.choice(entry["names"])
        parameters, properties = [], {}
        for parameter in entry["parameters"]:
            chosen = rng.choice([n for n in parameter["names"] if n not in properties])
            kind = parameter["kind"]
            if rng.random() < 0.15:
                chosen = rng.choice([self.made_up().lower(), *self._source["parameters"]])
            parameters.append((chosen, kind))
            properties[chosen] = self._schema(chosen, kind)
        for parameter in entry.get("optional", ()):
            if rng.random() < 0.3:
                chosen = rng.choice(parameter["names"])
                properties[chosen] = {"type": "string", "enum": parameter["enum"]}
        about = rng.choice(entry["about"])
        ability = Ability(name, parameters, entry["ask"], entry["results"])
        return self._tool(name, about, parameters, properties), ability

    def _made_up_tool(self) -> tuple[Tool, Ability]:
        rng, source = self._rng, self._source
        verb = rng.choice(source["verbs"])
        noun = rng.choice(source["nouns"]) if rng.random() < 0.6 else self.made_up().lower()
        if rng.random() < 0.15:
            verb = self.made_up().lower()
        camel = verb + noun.capitalize()
        names = (f"{verb}_{noun}", camel, f"{noun}_{verb}", noun, f"{verb}-{noun}")
        name = rng.choices(names, (60, 15, 10, 8, 7))[0]
        parameter = rng.choice(source["parameters"])
        if rng.random() < 0.4:
            parameter = self.made_up().lower()
        if rng.random() < 0.2:
            parameter = f"{noun}_{parameter}"
        kind = rng.choice(_KINDS)
        ask = [
            line.replace("{verb}", verb).replace("{noun}", noun).replace("{parameter}", parameter)
            for line in source["ask"]
        ]
        about = rng.choice(
            (
                f"{verb.capitalize()} the {noun} of something",
                f"{verb.capitalize()} a {noun}",
                f"Returns the {noun}",
                f"{noun.capitalize()} by {parameter}",
                f"{verb.capitalize()}s the {noun} for a {parameter}",
            )
        )
        parameters = [(parameter, kind)]
        properties = {parameter: self._schema(parameter, kind)}
        results = [rng.choice((noun, "result", "status", "value", parameter)), "id"]
        return (
            self._tool(name, about, parameters, properties),
            Ability(name, parameters, ask, results),
        )

    def _schema(self, name: str, kind: str) -> dict[str, Any]:
        rng = self._rng
        types = {"number": ("number", "integer")}.get(kind, ("string",))
        schema: dict[str, Any] = {"type": rng.choice(types)}
        if rng.random() < 0.35:
            about = (f"The {name}", name.capitalize(), f"{name} to use", f"Which {name}")
            schema["description"] = rng.choice(about)
        return schema

    def _tool(
        self, name: str, about: str, parameters: list[tuple[str, str]], properties: dict[str, Any]
    ) -> Tool:
        rng = self._rng
        schema: dict[str, Any] = {"type": "object", "properties": properties}
        if rng.random() < 0.75:
            schema["required"] = [parameter for parameter, _ in parameters]
        if rng.random() < 0.2:
            schema["additionalProperties"] = False
        function: dict[str, Any] = {"name": name}
        described = rng.random()
        if described < 0.7:
            function["description"] = about + rng.choice(("", "."))
        elif described < 0.9:
            function["description"] = ""  # what llama.cpp writes where there is none
        function["parameters"] = schema
        if rng.random() < 0.1:
            function["strict"] = True
        if rng.random() < 0.15:  # another order of keys
            function = dict(sorted(function.items(), key=lambda item: item[0] != "description"))
        if rng.random() < 0.1:
            return {"function": function, "type": "function"}
        return {"type": "function", "function": function}

    def _question(self, ability: Ability) -> tuple[str, dict[str, Any]]:
        rng = self._rng
        question = rng.choice(ability.ask)
        question = re.sub(r"\(([^()]*)\)", lambda m: rng.choice(m[1].split("|")), question)
        question = question.replace("{NAME}", ability.name)
        arguments: dict[str, Any] = {}
        for letter, (name, kind) in zip("ABC", ability.parameters, strict=False):
            value = self._value(kind)
            question = question.replace("{" + letter + "}", str(value))
            arguments[name] = value
        return question, arguments

    def _value(self, kind: str) -> Any:  # noqa: PLR0911  # a table
        rng, values = self._rng, self._source["values"]
        match kind:
            case "number":
                digits = 10 ** rng.randint(1, 4)
                return rng.randint(0, digits)
            case "id":
                letters = "".join(rng.choices("ABCDEFGHKLMNPRSTXZ", k=rng.randint(1, 3)))
                number = str(rng.randint(1, 99999))
                return rng.choice((number, f"{letters}{number}", f"{letters}-{number}"))
            case "phrase":
                return " ".join(
                    self.made_up().lower() if rng.random() < 0.15 else rng.choice(values["words"])
                    for _ in range(rng.randint(1, 4))
                )
            case "word":
                return rng.choice(values["words"])
            case "path":
                return self.made_up().lower() + rng.choice(_ENDINGS)
            case "made":
                return self.made_up()
        if kind == "symbol" and rng.random() < 0.3:
            return "".join(rng.choices("ABCDEFGHIKLMNOPQRSTUVWXYZ", k=rng.randint(3, 4)))
        if rng.random() < 0.55:
            word = self.made_up().capitalize()
            return f"{word} {self.made_up().capitalize()}" if rng.random() < 0.15 else word
        return rng.choice(values[kind])

    def _result(self, ability: Ability) -> tuple[str, str]:
        """What a tool returns, and how the answer tells it."""
        rng = self._rng
        form = rng.random()
        if form < 0.3:
            text = self._sentence(ability)
            return text, text if text[-1] in ".!?" else text + "."
        if form < 0.42:
            text = str(self._scalar())
            return text, text + "."
        keys = rng.sample(ability.results, rng.randint(1, min(3, len(ability.results))))
        if rng.random() < 0.2:
            keys[0] = rng.choice((self.made_up().lower(), f"{keys[0]}_{rng.choice('abc')}"))
        if rng.random() < 0.06:
            keys = ["error"]
        result = {key: self._scalar() for key in keys}
        told = [f"the {key} is {_plain(value)}" for key, value in result.items()]
        text = ", ".join(told[:-1]) + " and " + told[-1] if len(told) > 1 else told[0]
        separators = (",", ":") if rng.random() < 0.25 else None
        return json.dumps(result, ensure_ascii=False, separators=separators), text + "."

    def _sentence(self, ability: Ability) -> str:
        rng = self._rng
        words = [
            str(self._scalar())
            if rng.random() < 0.25
            else rng.choice(self._source["values"]["words"])
            for _ in range(rng.randint(2, 7))
        ]
        subject = ability.results[0].capitalize()
        start = rng.choice(("The", "It is", "Found", "Now", self.made_up(), subject))
        return " ".join([start, *words]) + rng.choice((".", ".", ""))

    def _scalar(self) -> Any:
        rng = self._rng
        kind = rng.random()
        if kind < 0.3:
            return rng.randint(-20 if kind < 0.03 else 0, 10 ** rng.randint(1, 4))
        if kind < 0.4:
            return round(rng.uniform(0, 10 ** rng.randint(1, 3)), rng.randint(1, 2))
        if kind < 0.65:
            return rng.choice(self._source["values"]["text"])
        if kind < 0.7:
            return rng.random() < 0.5
        return " ".join(self.made_up() for _ in range(rng.choice((1, 1, 2))))


def _plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool) else str(value)
