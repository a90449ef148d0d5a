"""The ``effnet-zoo`` command. Each command is a small module that imports what it needs when it runs."""

import sys
from typing import Annotated

import typer

from effnet_zoo import __version__
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
from effnet_zoo.errors import EffnetZooError

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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"effnet-zoo {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Every EfficientNet, V1 and V2: list, run, convert, publish and check."""


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit status 1."""
    try:
        app()
    except EffnetZooError as error:
        typer.echo(f"effnet-zoo: {error}", err=True)
        sys.exit(1)
