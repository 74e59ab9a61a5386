"""Cutting texts into pieces: nothing is lost, whatever they are."""

from hypothesis import given
from hypothesis import strategies as st

from workers.persistence.chunks import SIZE, split


@given(st.text(alphabet="ab .\n", max_size=6000))
def test_all_words_are_in_the_pieces(text: str) -> None:
    pieces = split(text)
    assert all(0 < len(piece) <= SIZE for piece in pieces)
    # A word is whole in one of the pieces, unless it is as long as one.
    words = {word for word in text.split() if len(word) < SIZE // 8}
    assert words <= {word for piece in pieces for word in piece.split()} | _cut(text)


def _cut(text: str) -> set[str]:
    """Words beside one so long that it is cut: where it ends is not where they begin."""
    return set(text.split()) if any(len(word) >= SIZE // 8 for word in text.split()) else set()


def test_a_text_without_any_space_is_cut_too() -> None:
    pieces = split("x" * 5000)
    assert sum(map(len, pieces)) >= 5000


def test_pieces_end_at_paragraphs_and_overlap() -> None:
    text = "\n\n".join(f"Paragraph {number}. " + "word " * 60 for number in range(10))
    pieces = split(text)
    assert all(piece.endswith("word") for piece in pieces)
    assert len(pieces) >= 3


def test_nothing_gives_no_piece() -> None:
    assert split("  \n ") == []
