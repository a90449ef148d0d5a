"""``effnet-zoo verify``"""

import collections
from typing import Annotated

import typer
from rich.table import Table

from effnet_zoo.cli.output import AsJson, print_json, print_table, with_progress
from effnet_zoo.errors import ArgumentError
from effnet_zoo.zoo import catalogue, ledger
from effnet_zoo.zoo.ledger import Checkpoint


def verify(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME...]", help="Checkpoints, or parts of their names.", show_default=False),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All of the ledger.")] = False,
    remote: Annotated[bool, typer.Option("--remote", help="Ask the Hub instead; nothing is downloaded.")] = False,
    write_pins: Annotated[
        bool, typer.Option("--write-pins", help="Fill missing revision and sha256 into the ledger.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the ledger with the files on this machine, or with the Hub: whole hashes, never a prefix.

    effnet-zoo verify --all

    effnet-zoo verify effnet_zoo_b0 --remote --write-pins
    """
    if bool(names) == everything:
        raise ArgumentError("expected the names of checkpoints, or --all")
    from effnet_zoo.transfer import verification as verifying

    checkpoints = _chosen(names or ["*"])
    found = verifying.against_hub(checkpoints) if remote else verifying.against_cache(checkpoints)
    verdicts = list(with_progress(found, len(checkpoints), "verifying"))
    pinned = verifying.write_pins(verdicts, ledger.FOLDER) if write_pins else []
    if as_json:
        print_json(
            [
                {
                    "name": verdict.checkpoint.name,
                    "state": verdict.state,
                    "detail": verdict.detail,
                    "revision": verdict.pin.revision if verdict.pin else None,
                    "sha256": verdict.pin.sha256 if verdict.pin else None,
                    "pinned_now": verdict.checkpoint.name in pinned,
                }
                for verdict in verdicts
            ]
        )
    else:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for heading in ("checkpoint", "state", "detail"):
            table.add_column(heading, overflow="fold")
        for verdict in verdicts:
            table.add_row(verdict.checkpoint.name, verdict.state, verdict.detail)
        print_table(table)
        counts = collections.Counter(verdict.state for verdict in verdicts)
        typer.echo("; ".join(f"{count} {state} ({verifying.STATES[state]})" for state, count in counts.items()))
        if write_pins:
            typer.echo(f"pinned {len(pinned)} in {ledger.FOLDER}")
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)


def _chosen(names: list[str]) -> list[Checkpoint]:
    chosen: dict[str, Checkpoint] = {}
    for name in names:
        matches = [checkpoint for _, checkpoint in catalogue.checkpoints(name)] or [catalogue.find(name)[1]]
        chosen |= {checkpoint.name: checkpoint for checkpoint in matches}
    return list(chosen.values())
