"""How commands print: tables for people, JSON for scripts, and a bar for progress."""

import json
import textwrap
import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import typer
from rich import progress
from rich.console import Console
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
    _print_table(table, rows)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values on standard output, one pair a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    _print_table(table, facts.items())


def _print_table(table: Table, rows: Iterable[Sequence[str | Text]]) -> None:
    """Print a table, at its full width if there is no terminal to fit it to."""
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))  # brackets are no markup
    console = Console()
    if not console.is_terminal:
        console = Console(width=Console(width=10_000).measure(table).maximum)
    console.print(table)


def with_progress(
    items: Iterable[Item], count: int | Callable[[], int] | None, what: str, *, done: int = 0, wanted: bool = True
) -> Iterable[Item]:
    """Return the items, with a progress bar if standard error is a terminal and a bar is wanted.

    `count` is the number of all items, with the `done` ones of a run before; a function of it runs in another thread.
    """
    console = Console(stderr=True)
    return _with_bar(items, count, what, done, console) if wanted and console.is_terminal else items


def _with_bar(
    items: Iterable[Item], count: int | Callable[[], int] | None, what: str, done: int, console: Console
) -> Iterator[Item]:
    columns = (*progress.Progress.get_default_columns(), progress.MofNCompleteColumn(), _Rate())
    with progress.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None if callable(count) else count, completed=done)
        if callable(count):
            threading.Thread(target=lambda: bar.update(task, total=count()), daemon=True).start()
        for item in items:
            yield item
            bar.advance(task)


class _Rate(progress.ProgressColumn):
    def render(self, task: progress.Task) -> Text:
        return Text(f"{task.speed:,.1f}/s" if task.speed else "")


def counted(number: int) -> str:
    """Return a large number in millions or billions."""
    return f"{number / 1e9:.2f} B" if number >= 1e9 else f"{number / 1e6:.1f} M"
