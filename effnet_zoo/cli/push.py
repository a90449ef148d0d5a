"""``effnet-zoo push``"""

import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_zoo import atomic_io
from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_json
from effnet_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from effnet_zoo.transfer.publishing import Push


@options.bundled
def push(
    place: options.Place,
    repo_id: Annotated[str | None, typer.Argument(help="Repository on the Hub to write: owner/name.")] = None,
    *,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write to this folder, instead of a repository.")
    ] = None,
    measured: Annotated[
        list[str] | None, typer.Option(help="A figure for the card that you measured, such as top1=78.3@DATASET.")
    ] = None,
    reported: Annotated[
        list[str] | None, typer.Option(help="A figure for the card that others report, such as top1=78.3@DATASET.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is created.")] = False,
    revision: Annotated[str | None, typer.Option(help="Branch to write. By default, the main branch.")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every file and the card. Change nothing.")] = False,
    weights: options.ConversionOptions,
    as_json: AsJson = False,
) -> None:
    """Publish weights with config, card and class names in one commit, and download them again to check.

    Log in with `hf auth login` first. What is published loads with timm, transformers and this package.

    effnet-zoo push mine/ me/birds-b0 --license apache-2.0 --classes train/ --measured top1=91.2

    effnet-zoo push effnet_zoo_lite0.pypi_in1k --to lite0 --dry-run
    """
    if (repo_id is None) == (to is None):
        raise ArgumentError("expected either a repository, owner/name, or --to DIR")
    if to is not None and (private or revision or create_pr or message):
        raise ArgumentError("--private, --revision, --create-pr and --message are for a repository, not for --to DIR")
    if to is not None and not dry_run:
        atomic_io.check_destination(to)
    from effnet_zoo.transfer import publishing
    from effnet_zoo.transfer.card import parse_metric, reported_metrics

    # The client warns of each attempt that it repeats. If it gives up, the error below says so.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    metrics = [parse_metric(text, measured=True) for text in measured or []]
    metrics += [parse_metric(text, measured=False) for text in reported or []]
    bundle = weights.open(place)
    metrics = metrics or reported_metrics(bundle)
    if to is not None:
        done = publishing.save(bundle, to, metrics=metrics, dry_run=dry_run)
    else:
        assert repo_id is not None
        done = publishing.push(
            bundle,
            repo_id,
            metrics=metrics,
            private=private,
            revision=revision,
            create_pr=create_pr,
            message=message,
            dry_run=dry_run,
        )
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        _show(done, dry_run=dry_run)


def _show(done: "Push", *, dry_run: bool) -> None:
    for change in done.changes:
        typer.echo(f"{change.what:6}  {change.path}" + (f"  {change.size:,} bytes" if change.size else ""))
    if dry_run:
        typer.echo(f"\n{done.readme}\nnothing was changed: this was a dry run")
        return
    if not done.changed:
        typer.echo(f"{done.repo_id} has all of this already: no commit")
    elif done.commit:
        typer.echo(f"{done.repo_id}@{done.commit}: downloaded again, same hash and logits")
    else:
        typer.echo(f"wrote {done.repo_id}; timm.create_model('local-dir:{done.repo_id}', pretrained=True)")
    if done.pull_request:
        typer.echo(f"pull request: {done.pull_request}")
    if done.ledger:
        typer.echo(f"\nfor weights/*.toml:\n\n{done.ledger}")
