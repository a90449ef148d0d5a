"""Check command lines of ``effnet-zoo`` by the parser of the command, without running them."""

import shlex
from typing import Any

import typer

from effnet_zoo.cli import app


class CommandError(Exception):
    """A command line that the documentation shows, and that the command would refuse."""


def command_lines(code: str) -> list[str]:
    """Return the lines of a shell block that call ``effnet-zoo``, without comments and variables before the command."""
    found = []
    for line in code.splitlines():
        words = shlex.split(line, comments=True)
        while words and "=" in words[0]:
            words = words[1:]
        if words and words[0] == "effnet-zoo":
            found.append(shlex.join(words))
    return found


def parse(line: str) -> dict[str, Any]:
    """Return the values of the options and arguments of a command line.

    Raises:
        CommandError: If the command, an option or an argument does not exist, or has another type.
    """
    group: Any = typer.main.get_command(app)  # made anew: the functions of this one may be replaced
    values: dict[str, Any] = {}
    for command in group.commands.values():
        command.callback = values.update
    try:
        group.main(shlex.split(line)[1:], prog_name="effnet-zoo", standalone_mode=False)
    except Exception as error:
        if not hasattr(error, "format_message"):  # of click, or of the copy that newer versions of typer have
            raise
        raise CommandError(f"{line}: {error.format_message()}") from None
    return values
