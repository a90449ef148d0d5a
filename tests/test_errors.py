"""Messages are one line for people, whatever they quote."""

import copy
import pickle

import pytest

from effnet_zoo import errors
from effnet_zoo.errors import (
    LONGEST_MESSAGE,
    LONGEST_QUOTE,
    EffnetZooError,
    MissingExtraError,
    first_line,
    printable,
    quoted,
    shortened,
)

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EffnetZooError)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_message_is_one_line_that_no_terminal_obeys(kind: type[EffnetZooError]) -> None:
    name = "a\x1b[2Jb\nc\rd\x00e\u202ef\udcffg"
    error = kind(f"{name}: there is no such file")
    assert str(error) == r"a\x1b[2Jb\nc\rd\x00e\u202ef\xffg: there is no such file"
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (type(again), str(again)) == (kind, str(error))


def test_a_message_is_short_whatever_it_quotes() -> None:
    message = str(EffnetZooError(f"{'x' * 1_000_000}: expected a name"))
    assert len(message) == LONGEST_MESSAGE
    assert message.endswith(": expected a name")
    assert "characters left out" in message


def test_a_value_is_quoted_in_a_line() -> None:
    assert quoted("name") == "'name'"
    assert len(quoted("x" * 1_000_000)) == LONGEST_QUOTE
    assert len(quoted(list(range(1000)))) == LONGEST_QUOTE
    assert quoted(10**10_000) == "a number of thousands of digits"


@pytest.mark.parametrize("length", [0, 5, 30, 50, 79, 80, 81])
def test_what_is_shortened_is_never_longer_than_it_was_asked_to_be(length: int) -> None:
    text = "".join(chr(97 + number % 26) for number in range(80))
    assert len(shortened(text, max(length, 30))) <= max(length, 30)
    assert shortened(text, 80) == text


def test_text_for_people_stays_as_it_is() -> None:
    for text in ("plain", "Über ñ 写真.jpg", r"C:\photos\new.jpg", ""):
        assert printable(text) == text


def test_the_first_line_of_an_error_is_its_kind_if_it_says_nothing() -> None:
    assert first_line(ValueError("one\ntwo")) == "one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_errors_are_also_of_pythons_kinds() -> None:
    assert issubclass(MissingExtraError, ImportError)
    assert str(MissingExtraError("needs x")) == "needs x"
