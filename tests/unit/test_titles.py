"""Titles that conversations get from what their users say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.persistence.titles import MAX_TITLE, MAX_WORDS, is_due, to_short_title, to_title


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("Tell me of herons.", "Tell me of herons"),
        ("\n\n## A *bold* plan\nand more", "A bold plan"),
        ("https://x.example/a?b\nwhat is it?", "what is it?"),
        ("read [the docs](https://x.example) and www.y.example", "read the docs and"),
        ("ask me@x.example or you", "ask or you"),
        ("!!!", None),
        ("", None),
        ("wort " * 30, " ".join(["wort"] * 12) + "…"),
        ("x" * 100, "x" * 59 + "…"),
    ],
)
def test_a_title_is_the_first_line_that_says_something(text: str, title: str | None) -> None:
    assert to_title(text) == title


@pytest.mark.parametrize(
    ("answer", "title"),
    [
        ("Herons of the North", "Herons of the North"),
        ('"Herons."', "Herons"),
        ("Title: Herons at Dawn", "Herons at Dawn"),
        ("**Herons**\n\nI hope that helps!", "Herons"),
        ("<think>of\nbirds</think>\n\nHerons", "Herons"),
        ("<think>without an end", None),
        ("one two three four five six seven", "one two three four five six"),
        ("", None),
        ('"".', None),
    ],
)
def test_what_a_model_answers_becomes_a_title(answer: str, title: str | None) -> None:
    assert to_short_title(answer) == title


@given(st.text())
def test_what_a_model_answers_becomes_a_short_title(answer: str) -> None:
    title = to_short_title(answer)
    assert title is None or (title and len(title) <= MAX_TITLE)
    assert title is None or len(title.split()) <= MAX_WORDS


@given(st.text())
def test_a_title_is_short_and_one_line(text: str) -> None:
    title = to_title(text)
    assert title is None or (0 < len(title) <= MAX_TITLE and title.isprintable())


def test_titles_are_made_first_and_every_fifth_time() -> None:
    assert [count for count in range(1, 12) if is_due(count - 1, count)] == [1, 5, 10]
    assert is_due(0, 3)
    assert is_due(4, 6)
    assert not is_due(3, 3)
