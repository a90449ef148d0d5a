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


def push(
    place: options.Place,
    repo_id: Annotated[
        str | None, typer.Argument(metavar="[REPO_ID]", help="owner/name on the Hub.", show_default=False)
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write to this folder instead.", show_default=False)
    ] = None,
    licence: options.Licence = None,
    classes: options.Classes = None,
    variant: options.Variant = None,
    no_ema: options.NoEma = False,
    like: options.Like = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    interpolation: options.Interpolation = None,
    crop_pct: options.CropPct = None,
    padding: options.PaddingOption = None,
    bn_eps: options.BnEps = None,
    measured: Annotated[
        list[str] | None, typer.Option(help="A figure of yours for the card: top1=78.3@DATASET.", show_default=False)
    ] = None,
    reported: Annotated[
        list[str] | None, typer.Option(help="Somebody else's figure: top1=78.3@DATASET.", show_default=False)
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Create the repository private.")] = False,
    revision: Annotated[str | None, typer.Option(help="The branch.", show_default=False)] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="Open a pull request.")] = False,
    message: Annotated[str | None, typer.Option(help="Of the commit.", show_default=False)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show every file and the card; change nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Publish weights with config, card and class names in one commit, and pull them again to check.

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
    from effnet_zoo.transfer.conversion import with_overrides
    from effnet_zoo.transfer.opening import open_package

    # What the client tries again is no news, and what it gives up on is told below.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    figures = [parse_metric(text, measured=True) for text in measured or []]
    figures += [parse_metric(text, measured=False) for text in reported or []]
    package = with_overrides(
        open_package(place, variant=variant, ema=not no_ema),
        options.images(like, mean, std, size, interpolation, crop_pct),
        options.padding(padding),
        bn_eps,
        options.labels(classes),
        licence,
    )
    metrics = figures or list(reported_metrics(package))
    if to is not None:
        done = publishing.save(package, to, metrics=metrics, dry_run=dry_run)
    else:
        assert repo_id is not None
        done = publishing.push(
            package,
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
        return
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
        typer.echo(f"{done.repo_id}@{done.commit}: pulled again, same hash and logits")
    else:
        typer.echo(f"wrote {done.repo_id}; timm.create_model('local-dir:{done.repo_id}', pretrained=True)")
    if done.pull_request:
        typer.echo(f"pull request: {done.pull_request}")
    if done.ledger:
        typer.echo(f"\nfor weights/*.toml:\n\n{done.ledger}")
