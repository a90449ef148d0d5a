"""Checks of single values: whole numbers, numbers in a range, flags and choices. Each `check_...` raises SpecError."""

from collections.abc import Sequence
from typing import TypeGuard

from effnet_zoo.errors import SpecError, did_you_mean, quoted

MAX_WHOLE = 999_999
"""Largest whole number in a description: six digits, as a block string can hold."""


def is_whole(value: object, *, least: int = 0) -> TypeGuard[int]:
    """Return whether a value is a whole number from `least` to `MAX_WHOLE`; True and 1.0 are not."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_WHOLE


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an int or a float; True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def check_whole(field: str, value: object, *, least: int = 1) -> None:
    if not is_whole(value, least=least):
        raise SpecError(f"{field}={quoted(value)}: expected a whole number from {least} to {MAX_WHOLE}")


def check_number(field: str, value: object, low: float, high: float, expected: str = "a number") -> None:
    if not is_number(value) or not low <= value <= high:
        raise SpecError(f"{field}={quoted(value)}: expected {expected} from {low:g} to {high:g}")


def check_flag(field: str, value: object) -> None:
    if not isinstance(value, bool):
        raise SpecError(f"{field}={quoted(value)}: expected True or False")


def check_choice(field: str, value: object, known: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise SpecError(f"{field}={quoted(value)}: expected {' or '.join(known)}.{did_you_mean(value, known)}")
