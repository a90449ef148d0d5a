"""``effnet-zoo verify``"""

import collections
from typing import Annotated

import typer

from effnet_zoo.cli.output import AsJson, print_json, print_rows, with_progress
from effnet_zoo.errors import ArgumentError
from effnet_zoo.zoo import catalogue, ledger


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names of checkpoints, or parts of names.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Verify all checkpoints of the ledger.")] = False,
    remote: Annotated[
        bool, typer.Option("--remote", help="Compare with the Hub instead. Nothing is downloaded.")
    ] = False,
    write_pins: Annotated[
        bool, typer.Option("--write-pins", help="Write the revision and sha256 that were found into the ledger.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Compare the ledger's hashes with the files on this machine, or with the Hub.

    effnet-zoo verify --all

    effnet-zoo verify effnet_zoo_b0 --remote --write-pins
    """
    if bool(names) == everything:
        raise ArgumentError("expected the names of checkpoints, or --all")
    from effnet_zoo.transfer import verification

    checkpoints = {
        checkpoint.name: checkpoint
        for name in names or ["*"]
        for _, checkpoint in list(catalogue.checkpoints(name)) or [catalogue.find(name)]
    }.values()
    found = verification.verify(checkpoints, remote=remote)
    verdicts = list(with_progress(found, len(checkpoints), "verifying"))
    pinned = verification.write_pins(verdicts, ledger.FOLDER) if write_pins else []
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
        columns = ["checkpoint", "state", "detail"]
        print_rows(columns, [[each.checkpoint.name, each.state, each.detail] for each in verdicts], left=columns)
        counts = collections.Counter(verdict.state for verdict in verdicts)
        typer.echo("; ".join(f"{count} {state} ({verification.STATES[state]})" for state, count in counts.items()))
        if write_pins:
            typer.echo(f"pinned {len(pinned)} in {ledger.FOLDER}")
    if not all(verdict.passed for verdict in verdicts):
        raise typer.Exit(1)
