"""How commands print: tables for people, JSON for scripts, and a bar for progress."""

import json
import textwrap
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
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

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


def print_json(value: Any) -> None:
    """Print one JSON document on standard output."""
    typer.echo(_json(value))


def print_json_list(values: Iterable[Any]) -> None:
    """Print one JSON list on standard output, each value as soon as it is there.

    If the iterator raises, the list has no end.
    """
    before = "[\n"
    for value in values:
        typer.echo(before + textwrap.indent(_json(value), "  "), nl=False)
        before = ",\n"
    typer.echo("\n]" if before == ",\n" else "[]")


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[str | Text]], *, left: Container[str] = ()) -> None:
    """Print a table on standard output. Columns are aligned right, except those in `left`."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        if heading in left:
            table.add_column(heading, overflow="fold")
        else:
            table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(_cell, row))
    print_table(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values on standard output, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, _cell(value))
    print_table(table)


def _cell(value: str | Text) -> Text:
    return Text(value) if isinstance(value, str) else value  # brackets in a file's name are no markup


def print_table(table: Table) -> None:
    """Print a table on standard output, at its full width if there is no terminal to fit it to."""
    console = Console()
    if not console.is_terminal:
        unbounded = Console(width=10_000)
        console = Console(width=unbounded.measure(table).maximum)
    console.print(table)


def with_progress(items: Iterable[Item], total: int, what: str, *, wanted: bool = True) -> Iterable[Item]:
    """Return the items, with a progress bar if standard error is a terminal and a bar is wanted."""
    console = Console(stderr=True)
    if not (wanted and console.is_terminal):
        return items
    return track(items, total=total, description=what, console=console, transient=True)


def with_rate(
    items: Iterable[Item], count: Callable[[], int] | None, what: str, *, done: int = 0, wanted: bool = True
) -> Iterable[Item]:
    """Return the items, with a progress bar that shows the rate, and the time left once the files are counted.

    Args:
        items: One item for each file.
        count: Count all files, with those done before. It runs in another thread. None if files cannot be counted.
        what: What is being done.
        done: Number of files that were done before.
        wanted: Whether a bar is wanted.
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
    """Return a large number in millions or billions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
