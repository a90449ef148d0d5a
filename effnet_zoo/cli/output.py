"""How commands print: tables for people, JSON for scripts."""

import json
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

Item = TypeVar("Item")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(table: Table) -> None:
    """A table on standard output, at its full width where there is no terminal to fit it to."""
    console = Console()
    if not console.is_terminal:
        unbounded = Console(width=10_000)
        console = Console(width=unbounded.measure(table).maximum)
    console.print(table)


def with_progress(items: Iterable[Item], total: int, what: str, *, wanted: bool = True) -> Iterable[Item]:
    """The items, with a progress bar while they are drawn if standard error is a terminal and a bar is wanted."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        return items
    return track(items, total=total, description=what, console=console, transient=True)


def counted(number: int) -> str:
    """A large number in millions or billions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
