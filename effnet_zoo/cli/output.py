"""How commands print: tables for people, JSON for scripts."""

import json
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

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


def counted(number: int) -> str:
    """A large number in millions or billions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
