"""The ``effnet-zoo`` command. Each command is one module, which imports heavy libraries only when it runs."""

import errno
import platform
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from effnet_zoo import __version__
from effnet_zoo.atomic_io import explained
from effnet_zoo.cli.bench import bench
from effnet_zoo.cli.convert import convert
from effnet_zoo.cli.embed import embed
from effnet_zoo.cli.export import export
from effnet_zoo.cli.info import info
from effnet_zoo.cli.inspect import inspect
from effnet_zoo.cli.list import list_
from effnet_zoo.cli.predict import predict
from effnet_zoo.cli.pull import pull
from effnet_zoo.cli.push import push
from effnet_zoo.cli.quantize import quantize
from effnet_zoo.cli.selftest import selftest
from effnet_zoo.cli.verify import verify
from effnet_zoo.errors import LONGEST_QUOTE, ArgumentError, EffnetZooError, first_line, printable, quoted, shortened

app = typer.Typer(
    help="Every EfficientNet, V1 and V2: list, run, convert, publish and check.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("list")(list_)
for command in (info, predict, embed, pull, inspect, convert, export, quantize, push, verify, selftest, bench):
    app.command()(command)


DEBUG = "--debug"

ISSUES = "https://github.com/org/effnet-zoo/issues"

BUG = 70
"""Exit status of an internal software error, from sysexits.h."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"effnet-zoo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG, help="Show the traceback of an error. It may stand anywhere in the command line.")
    ] = False,
) -> None:
    """Every EfficientNet, V1 and V2: list, run, convert, publish and check."""


def main() -> None:
    """Run the command line in `sys.argv`. Only here do errors become text for people.

    Exit status: 0 for success; 1 for an error of this package, in one line on standard error; 2 for a wrong command
    line; 70 for a bug of this package, with what to report; 130 after Ctrl-C. ``--debug`` shows the traceback too.
    """
    program, *arguments = sys.argv
    debug = DEBUG in arguments
    try:
        _refuse_empty(arguments)
        app([argument for argument in arguments if argument != DEBUG], prog_name=Path(program).name)
    except Exception as error:
        if debug:
            traceback.print_exc()
        status, line = _status_and_line(error)
        typer.echo(f"effnet-zoo: {line}", err=True)
        sys.exit(status)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument, as a script with an unset variable gives it: as a path it would mean this folder.

    Raises:
        ArgumentError: If an argument is empty.
    """
    for before, argument in zip(["the first", *arguments], arguments, strict=False):
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise ArgumentError(f"an empty argument at {quoted(argument or before)}: expected a value, or leave it out")


def _status_and_line(error: Exception) -> tuple[int, str]:
    if isinstance(error, EffnetZooError):
        return 1, str(error)
    if isinstance(error, OSError) and error.filename is not None:  # from a library that writes a file: a full disk
        return 1, printable(explained(error, error.filename))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return 1, explained(error, "standard output")
    if isinstance(error, MemoryError):
        return 1, "out of memory: expected a smaller batch, model or image"
    message = shortened(printable(first_line(error)), LONGEST_QUOTE)
    return BUG, (
        f"this is a bug of effnet-zoo: {type(error).__name__}: {message} ({_versions()}): please report it at {ISSUES} "
        f"with what {DEBUG} shows"
    )


def _versions() -> str:
    from importlib import metadata

    parts = [f"effnet-zoo {__version__}", f"python {platform.python_version()}", platform.platform()]
    for name in ("torch", "timm", "huggingface_hub"):
        with suppress(metadata.PackageNotFoundError):
            parts.append(f"{name} {metadata.version(name)}")
    return ", ".join(parts)
