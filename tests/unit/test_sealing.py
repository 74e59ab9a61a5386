"""Secrets in messages: nobody without the key reads or changes them."""

import pytest

from schemas.sealing import SealError, is_sealed, seal, seal_same, unseal


@pytest.mark.parametrize("text", ["", "Bearer abc", "ü" * 1000])
def test_what_was_sealed_is_opened_with_the_same_key(text: str) -> None:
    sealed = seal("key", text)
    assert is_sealed(sealed)
    assert unseal("key", sealed) == text


def test_a_sealed_text_says_nothing_of_its_secret() -> None:
    first, second = seal("key", "secret"), seal("key", "secret")
    assert first != second
    assert "secret" not in first


def test_what_is_repeated_is_sealed_the_same_way_with_one_key() -> None:
    sealed = seal_same("key", "secret")
    assert sealed == seal_same("key", "secret")
    assert sealed not in (seal_same("other", "secret"), seal_same("key", "other"))
    assert unseal("key", sealed) == "secret"


def test_another_key_opens_nothing() -> None:
    with pytest.raises(SealError):
        unseal("other", seal("key", "secret"))


def test_what_was_changed_is_not_opened() -> None:
    sealed = seal("key", "secret")
    for position in range(len("sealed:"), len(sealed)):
        other = "A" if sealed[position] != "A" else "B"
        changed = sealed[:position] + other + sealed[position + 1 :]
        if position == len(sealed) - 1:  # its last bits are padding
            continue
        with pytest.raises(SealError):
            unseal("key", changed)


@pytest.mark.parametrize("text", ["plain", "sealed:", "sealed:!!!", "sealed:ü", "sealed:AAAA"])
def test_what_is_not_sealed_is_refused(text: str) -> None:
    with pytest.raises(SealError):
        unseal("key", text)


def test_without_a_key_nothing_is_sealed() -> None:
    with pytest.raises(SealError, match="JAN_SEALING_KEY"):
        seal("", "secret")
