"""The ``effnet-zoo`` command. Its modules import heavy libraries only when a command runs."""

import errno
import platform
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from typer import Exit, Option, Typer, echo

from effnet_zoo import __version__
from effnet_zoo.atomic_io import explained
from effnet_zoo.cli import bench, checkpoints, deployment, files, selftest, weights
from effnet_zoo.cli.options import bundled, refuse_if
from effnet_zoo.errors import LONGEST_QUOTE, EffnetZooError, first_line, printable, quoted, shortened

DEBUG = "--debug"

ISSUES = "https://github.com/org/effnet-zoo/issues"

BUG = 70
"""Exit status of an internal software error, from sysexits.h."""

COMMANDS: dict[str, Callable[..., None]] = {
    "list": checkpoints.list_,
    "info": checkpoints.info,
    "predict": files.predict,
    "embed": files.embed,
    "pull": checkpoints.pull,
    "inspect": weights.inspect,
    "convert": weights.convert,
    "export": deployment.export,
    "quantize": deployment.quantize,
    "push": weights.push,
    "verify": checkpoints.verify,
    "selftest": selftest.selftest,
    "bench": bench.bench,
}

app = Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name)(bundled(command))


def _version(wanted: bool) -> None:
    if wanted:
        echo(f"effnet-zoo {__version__}")
        raise Exit


@app.callback()
def options(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
    debug: Annotated[bool, Option(DEBUG, help="Show the traceback of an error. It may stand anywhere.")] = False,
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
        echo(f"effnet-zoo: {line}", err=True)
        sys.exit(status)


def _refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse an empty argument, as a script with an unset variable gives it: as a path it would mean this folder."""
    for before, argument in zip(["the first", *arguments], arguments, strict=False):
        empty = not argument or (argument.startswith("--") and argument.endswith("="))
        refuse_if(empty, f"an empty argument at {quoted(argument or before)}: expected a value, or leave it out")


def _status_and_line(error: Exception) -> tuple[int, str]:
    if isinstance(error, EffnetZooError):
        return 1, str(error)
    if isinstance(error, OSError) and error.filename is not None:  # from a library that writes a file: a full disk
        return 1, printable(explained(error, error.filename))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        return 1, explained(error, "standard output")
    if isinstance(error, MemoryError):
        return 1, "out of memory: expected a smaller batch, model or image"
    from importlib import metadata

    versions = [f"effnet-zoo {__version__}", f"python {platform.python_version()}", platform.platform()]
    for library in ("torch", "timm", "huggingface_hub"):
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{library} {metadata.version(library)}")
    message = shortened(printable(first_line(error)), LONGEST_QUOTE)
    return BUG, (
        f"this is a bug of effnet-zoo: {type(error).__name__}: {message} ({', '.join(versions)}): please report it at "
        f"{ISSUES} with what {DEBUG} shows"
    )
