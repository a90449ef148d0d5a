"""How commands print: tables for people, JSON for scripts."""

import json
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    track,
)
from rich.table import Table
from rich.text import Text

Item = TypeVar("Item")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_json_list(values: Iterable[Any]) -> None:
    """One JSON list on standard output, each value as it comes. It has no end if drawing a value raises."""
    before = "[\n"
    for value in values:
        typer.echo(
            before + textwrap.indent(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False), "  "), nl=False
        )
        before = ",\n"
    typer.echo("\n]" if before == ",\n" else "[]")


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


def with_rate(
    items: Iterable[Item], count: Callable[[], int] | None, what: str, *, done: int = 0, wanted: bool = True
) -> Iterable[Item]:
    """`with_progress` for files without end: how many a second, and the time left once they have been counted.

    Args:
        items: One a file.
        count: Counts all files, those done too, in a thread of its own; None if that cannot be known.
        what: What is being done.
        done: Files done before.
        wanted: Whether a bar is.
    """
    console = Console(stderr=True)
    return _rated(items, count, what, done, console) if wanted and console.is_terminal else items


def _rated(
    items: Iterable[Item], count: Callable[[], int] | None, what: str, done: int, console: Console
) -> Iterator[Item]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=None, completed=done)
        if count is not None:
            counting = threading.Thread(target=lambda: progress.update(task, total=count()), daemon=True)
            counting.start()
        for item in items:
            yield item
            progress.advance(task)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.1f} images/s" if task.speed else "")


def counted(number: int) -> str:
    """A large number in millions or billions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
