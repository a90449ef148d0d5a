"""What commands share: bundles of options as one object, and checks of the values of options."""

import functools
import inspect
import math
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any

import typer
from typer import Option

from effnet_zoo.errors import ArgumentError, quoted

Force = Annotated[bool, Option("--force", help="Replace the output file if it exists.")]


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of a dataclass, in place of the parameter that the dataclass annotates.

    Every field is declared as typer declares a parameter, and has a default.
    """
    parameters = inspect.signature(command).parameters.values()
    bundles: dict[str, Any] = {each.name: each.annotation for each in parameters if is_dataclass(each.annotation)}

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        for name, bundle in bundles.items():
            values[name] = bundle(**{field.name: values.pop(field.name) for field in fields(bundle)})
        command(**values)

    options: list[inspect.Parameter] = []
    for each in parameters:
        options += inspect.signature(each.annotation).parameters.values() if each.name in bundles else [each]
    options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options]
    with_options.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in options}
    return with_options


def finite(text: str) -> float:
    """Parse the value of an option that is a number: typer's own parser accepts NaN and infinity too."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{quoted(text)} is not a finite number.")
    return number


def one_of(*choices: str) -> Callable[..., str | None]:
    """Return a callback for an option that takes a few values, or None if it is left out."""

    def check(param: typer.CallbackParam, value: str | None) -> str | None:
        refuse_if(value not in (None, *choices), f"{param.opts[0]} {value}: expected {' or '.join(choices)}")
        return value

    return check


def refuse_if(contradiction: object, message: str) -> None:
    """Raise ArgumentError if options contradict each other."""
    if contradiction:
        raise ArgumentError(message)
