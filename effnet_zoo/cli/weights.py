"""``effnet-zoo inspect``, ``convert`` and ``push``: weights of any library, and what the user knows about them."""

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer import Argument, Option, echo

from effnet_zoo import atomic_io
from effnet_zoo.arch.families import Padding
from effnet_zoo.cli.options import finite, one_of, refuse_if
from effnet_zoo.cli.output import AsJson, print_facts, print_json
from effnet_zoo.errors import ArgumentError, quoted

if TYPE_CHECKING:
    from effnet_zoo.checkpoints.bundle import Bundle
    from effnet_zoo.transfer.publishing import Push

PADDINGS = get_args(Padding)
Place = Annotated[
    str,
    Argument(
        metavar="FILE_OR_REPO",
        help="A weight file, a folder that holds one, a repository owner/name on the Hub, or the name of a checkpoint.",
    ),
]
VariantOption = Annotated[
    str | None, Option(help="Name of the architecture. By default it is found out from the weights.")
]
NoEma = Annotated[
    bool, Option("--no-ema", help="If a file has raw weights and moving averages of them, use the raw weights.")
]


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """Facts about weights that the user knows and the file does not state."""

    variant: VariantOption = None
    no_ema: NoEma = False
    like: Annotated[
        str | None, Option(help="Use the preprocessing of this checkpoint, such as effnet_zoo_b0.ap_in1k.")
    ] = None
    classes: Annotated[
        Path | None, Option(help="Class names in the order of the logits: a text or JSON file, or an ImageFolder.")
    ] = None

    def overrides(self) -> dict[str, Any]:
        """Return the options as the arguments that `conversion.convert` and `conversion.with_overrides` share."""
        from effnet_zoo.transfer.conversion import Images
        from effnet_zoo.zoo.class_names import read_labels

        return {"images": Images(like=self.like), "labels": read_labels(self.classes) if self.classes else None}

    def open(self, place: str) -> "Bundle":
        """Open weights, with what the options say about them."""
        from effnet_zoo.transfer.conversion import with_overrides
        from effnet_zoo.transfer.opening import open_package

        overrides = self.overrides()
        return with_overrides(open_package(place, variant=self.variant, ema=not self.no_ema), **overrides)


@dataclass(frozen=True, kw_only=True)
class ConversionOptions(WeightOptions):
    """The same for commands that publish weights, or write them in another layout."""

    mean: Annotated[
        str | None, Option(help="Mean of each channel, where pixels are scaled to 0..1: '0.5,0.5,0.5'.")
    ] = None
    std: Annotated[str | None, Option(help="Standard deviation of each channel, on the same scale.")] = None
    size: Annotated[int | None, Option(min=32, help="Height and width of the input in pixels.")] = None
    interpolation: Annotated[str | None, Option(help="How images are resized: bicubic, bilinear or nearest.")] = None
    crop_pct: Annotated[
        float | None, Option(parser=finite, metavar="SHARE", help="Input size divided by resized size, from 0.01 to 1.")
    ] = None
    padding: Annotated[
        str | None,
        Option(
            callback=one_of(*PADDINGS), help="Padding of convolutions: same or symmetric. By default, the layout's."
        ),
    ] = None
    bn_eps: Annotated[
        float | None, Option(parser=finite, metavar="NUMBER", help="Epsilon of batch norm. By default, the layout's.")
    ] = None
    licence: Annotated[
        str | None, Option("--license", help="Licence of the weights, as an SPDX identifier such as apache-2.0.")
    ] = None

    def overrides(self) -> dict[str, Any]:
        given = super().overrides()
        images = dataclasses.replace(
            given["images"],
            mean=_numbers("--mean", self.mean),
            std=_numbers("--std", self.std),
            size=self.size,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
        )
        own = {"images": images, "padding": self.padding, "bn_eps": self.bn_eps, "licence": self.licence}
        return {**given, **own}


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        values = tuple(finite(part) for part in text.replace(",", " ").split())
    except typer.BadParameter:
        values = ()
    if not values:
        raise ArgumentError(f"{option} {quoted(text)}: expected a number for each channel, such as 0.5,0.5,0.5")
    return values * 3 if len(values) == 1 else values


def inspect(place: Place, variant: VariantOption = None, no_ema: NoEma = False, as_json: AsJson = False) -> None:
    """Show what a weight file is: layout, variant, classes, preprocessing. Show what is only assumed, too.

    effnet-zoo inspect checkpoint.pth.tar

    effnet-zoo inspect timm/efficientnet_b0.ra_in1k --json
    """
    from effnet_zoo.transfer.conversion import summary
    from effnet_zoo.transfer.opening import open_package

    found = summary(open_package(place, variant=variant, ema=not no_ema))
    if as_json:
        print_json(found)
        return
    how = found["preprocessing"] or {"unknown:": "give convert --mean and --std, or --like CHECKPOINT"}
    print_facts(
        {
            "source": found["source"],
            "layout": found["layout"],
            "variant": found["variant"],
            "classes": str(found["num_classes"]),
            "channels": str(found["in_chans"]),
            "seen": "; ".join(found["seen"]),
            "assumed": "; ".join(found["assumed"]) or "nothing",
            "left out": "; ".join(f"{key} ({reason})" for key, reason in found["dropped"].items()) or "nothing",
            "images": ", ".join(f"{key} {value}" for key, value in how.items()),
        }
    )


def convert(
    place: Place,
    out: Annotated[Path, Option(metavar="DIR", help="Folder to write. It must be empty, or not exist.")],
    *,
    to: Annotated[
        str,
        Option(
            help="Layout: effnet_zoo (timm's), efficientnet_pytorch, torchvision, transformers, keras, effnetv2_port."
        ),
    ] = "effnet_zoo",
    backbone_only: Annotated[bool, Option("--backbone-only", help="Leave the classifier out: 0 classes.")] = False,
    weights: ConversionOptions,
    golden: Annotated[
        Path | None,
        Option(help="A safetensors file with an 'image' and its expected 'logits'. The result is compared with them."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert weights between the layouts of EfficientNet libraries, and prove that the logits stay the same.

    effnet-zoo convert efficientnet-b0-355c32eb.pth --out b0

    effnet-zoo convert last.pth.tar --like effnet_zoo_b0.ap_in1k --classes train/ --out mine

    effnet-zoo convert effnet_zoo_b3 --to torchvision --out b3-torchvision
    """
    from effnet_zoo.transfer import conversion

    bundle = conversion.convert(
        place,
        out,
        to=to,
        variant=weights.variant,
        ema=not weights.no_ema,
        golden=golden,
        backbone_only=backbone_only,
        **weights.overrides(),
    )
    answer = {**conversion.summary(bundle), "out": str(out)}
    if as_json:
        print_json(answer)
        return
    echo(f"{bundle.source}: {bundle.variant} in the layout of {bundle.layout}, {bundle.num_classes} classes")
    for assumption in bundle.assumed:
        echo(f"assumed: {assumption}")
    for key, reason in bundle.dropped.items():
        echo(f"left out: {key} ({reason})")
    echo(f"proof: {bundle.proof or 'none: no other implementation of it is installed, and no --golden given'}")
    echo(f"wrote {out}: {answer['loads_with'].replace('DIR', str(out))}")


def push(
    place: Place,
    repo_id: Annotated[str | None, Argument(help="Repository on the Hub to write: owner/name.")] = None,
    *,
    to: Annotated[Path | None, Option(metavar="DIR", help="Write to this folder, instead of a repository.")] = None,
    measured: Annotated[list[str] | None, Option(help="A figure that you measured, such as top1=78.3@DATASET.")] = None,
    reported: Annotated[list[str] | None, Option(help="A figure that others report, in the same form.")] = None,
    private: Annotated[bool, Option("--private", help="Make the repository private, if it is created.")] = False,
    revision: Annotated[str | None, Option(help="Branch to write. By default, the main branch.")] = None,
    create_pr: Annotated[bool, Option("--create-pr", help="Open a pull request.")] = False,
    message: Annotated[str | None, Option(help="Message of the commit.")] = None,
    dry_run: Annotated[bool, Option("--dry-run", help="Show every file and the card. Change nothing.")] = False,
    weights: ConversionOptions,
    as_json: AsJson = False,
) -> None:
    """Publish weights with config, card and class names in one commit, and download them again to check.

    Log in with `hf auth login` first. What is published loads with timm, transformers and this package.

    effnet-zoo push mine/ me/birds-b0 --license apache-2.0 --classes train/ --measured top1=91.2

    effnet-zoo push effnet_zoo_lite0.pypi_in1k --to lite0 --dry-run
    """
    refuse_if((repo_id is None) == (to is None), "expected either a repository, owner/name, or --to DIR")
    commit: dict[str, Any] = {"private": private, "revision": revision, "create_pr": create_pr, "message": message}
    refuse_if(
        to is not None and any(commit.values()),
        "--private, --revision, --create-pr and --message are for a repository, not for --to DIR",
    )
    if to is not None and not dry_run:
        atomic_io.check_destination(to)
    from effnet_zoo.transfer import publishing
    from effnet_zoo.transfer.card import parse_metric, reported_metrics

    # The client warns of each attempt that it repeats. If it gives up, the error below says so.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    metrics = [parse_metric(text, measured=True) for text in measured or []]
    metrics += [parse_metric(text, measured=False) for text in reported or []]
    bundle = weights.open(place)
    how: dict[str, Any] = {"metrics": metrics or reported_metrics(bundle), "dry_run": dry_run}
    done = publishing.save(bundle, to, **how) if to else publishing.push(bundle, str(repo_id), **how, **commit)
    if as_json:
        print_json(dataclasses.asdict(done))
    else:
        _show(done, dry_run=dry_run)


def _show(done: "Push", *, dry_run: bool) -> None:
    for change in done.changes:
        echo(f"{change.what:6}  {change.path}" + (f"  {change.size:,} bytes" if change.size else ""))
    if dry_run:
        echo(f"\n{done.readme}\nnothing was changed: this was a dry run")
        return
    if not done.changed:
        echo(f"{done.repo_id} has all of this already: no commit")
    elif done.commit:
        echo(f"{done.repo_id}@{done.commit}: downloaded again, same hash and logits")
    else:
        echo(f"wrote {done.repo_id}; timm.create_model('local-dir:{done.repo_id}', pretrained=True)")
    if done.pull_request:
        echo(f"pull request: {done.pull_request}")
    if done.ledger:
        echo(f"\nfor weights/*.toml:\n\n{done.ledger}")
