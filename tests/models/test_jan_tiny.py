"""The committed jan-tiny, run by llama.cpp as the server runs it. It needs no training library."""

import json
import re
from pathlib import Path

import pytest

from models import evaluate, text
from models.evaluate import FILE, REPORT, Model, to_tool, user

SIZE_LIMIT = 5_000_000
WEATHER = {"name": "get_weather", "parameters": {"city": "string"}}
ADD_A_PROVIDER = ("providers:", "kind: openai", "base_url", "./jan up --providers")


@pytest.fixture(scope="module")
def model() -> Model:
    """The model, loaded once."""
    return Model(FILE)


def test_the_file_is_small() -> None:
    assert FILE.stat().st_size <= SIZE_LIMIT


@pytest.mark.parametrize("greeting", ["hello", "Hello!", "hi there", "Good morning"])
def test_it_greets_and_says_what_it_is(model: Model, greeting: str) -> None:
    answer, ended = model.say(greeting)
    assert ended
    assert evaluate.has(answer, ("jan-tiny", "demonstration model", "Jan Server"))


@pytest.mark.parametrize("system", ["", "You are a helpful assistant."])
@pytest.mark.parametrize(
    "question", ["How do I add a provider?", "how do i add a provider", "How can I add a provider?"]
)
def test_it_says_how_to_add_a_provider(model: Model, system: str, question: str) -> None:
    before = [{"role": "system", "content": system}] if system else []
    answer, ended = model.say(question, before=before)
    assert ended
    assert evaluate.has(answer, ADD_A_PROVIDER)


def test_at_a_usual_temperature_it_mostly_says_so_too(model: Model) -> None:
    question = "How do I add a provider?"
    answers = [model.say(question, temperature=0.7, seed=seed) for seed in range(5)]
    assert sum(ended and evaluate.has(text, ADD_A_PROVIDER) for text, ended in answers) >= 3


def test_it_says_that_it_is_small_when_it_does_not_know(model: Model) -> None:
    answer, _ = model.say("Write a poem about the sea.")
    assert evaluate.has(answer, ("small demonstration model", "attach a real model"))


def test_it_calls_a_tool_with_the_value_of_the_question(model: Model) -> None:
    answer = model.chat([user("What is the weather in Paris?")], tools=[to_tool(WEATHER)])
    choice = answer["choices"][0]
    (call,) = choice["message"]["tool_calls"]
    assert choice["finish_reason"] == "tool_calls"
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_it_answers_with_the_result_of_a_tool(model: Model) -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Paris"}'}
    messages = [
        user("What is the weather in Paris?"),
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"temperature": 21}'},
    ]
    answer = model.chat(messages, tools=[to_tool(WEATHER)])["choices"][0]["message"]
    assert "21" in answer["content"]


def test_its_figures_are_written_down() -> None:
    card = (Path(evaluate.__file__).parent / "README.md").read_text()
    for name, figure in json.loads(REPORT.read_text()).items():
        assert f"| {name} | {figure} |" in card


def test_questions_of_the_evaluation_are_in_no_training_text() -> None:
    intents = text.load_intents()
    asked = {text.normal(question) for intent in intents for question in intent.ask}
    assert [q for intent in intents for q in intent.held if text.normal(q) in asked] == []


def test_every_answer_of_the_text_has_the_facts_that_are_asked_of_it() -> None:
    for intent in text.load_intents():
        for answer in intent.answer:
            assert evaluate.has(answer, intent.facts), intent.id


def test_the_commands_that_it_names_exist() -> None:
    from cli.__main__ import VERBS

    answers = [answer for intent in text.load_intents() for answer in intent.answer]
    named = {verb for answer in answers for verb in re.findall(r"\./jan ([a-z]+)", answer)}
    assert named <= set(VERBS)


def test_the_training_text_is_the_same_for_a_seed() -> None:
    def beginning(seed: int) -> list[text.Conversation]:
        source = text.Writer(seed).conversations()
        return [next(source) for _ in range(50)]

    assert beginning(1) == beginning(1)
    assert beginning(1) != beginning(2)
