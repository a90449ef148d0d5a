"""``effnet-zoo convert``"""

from pathlib import Path
from typing import Annotated

import typer

from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_json


def convert(
    place: options.Place,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to write; not there yet, or empty.")],
    to: Annotated[
        str,
        typer.Option(
            help="The layout to write: effnet_zoo (which is timm's and geffnet's), efficientnet_pytorch, torchvision, "
            "transformers, keras or effnetv2_port."
        ),
    ] = "effnet_zoo",
    variant: options.Variant = None,
    no_ema: options.NoEma = False,
    backbone_only: Annotated[
        bool, typer.Option("--backbone-only", help="Leave the head out, whatever it is: the result has 0 classes.")
    ] = False,
    like: options.Like = None,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    interpolation: options.Interpolation = None,
    crop_pct: options.CropPct = None,
    padding: options.PaddingOption = None,
    bn_eps: options.BnEps = None,
    classes: options.Classes = None,
    licence: options.Licence = None,
    golden: Annotated[
        Path | None,
        typer.Option(help="A safetensors file with an 'image' and its 'logits', to compare with.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Convert weights from any EfficientNet library's layout to any other's, and prove that the logits stay.

    effnet-zoo convert efficientnet-b0-355c32eb.pth --out b0

    effnet-zoo convert last.pth.tar --like effnet_zoo_b0.ap_in1k --classes train/ --out mine

    effnet-zoo convert effnet_zoo_b3 --to torchvision --out b3-torchvision
    """
    from effnet_zoo.transfer import conversion
    from effnet_zoo.transfer.writing import summary as summary_of

    package = conversion.convert(
        place,
        out,
        to=to,
        variant=variant,
        ema=not no_ema,
        images=options.images(like, mean, std, size, interpolation, crop_pct),
        padding=options.padding(padding),
        bn_eps=bn_eps,
        labels=options.labels(classes),
        golden=golden,
        licence=licence,
        backbone_only=backbone_only,
    )
    summary = {**summary_of(package), "out": str(out)}
    if as_json:
        print_json(summary)
        return
    typer.echo(f"{package.source}: {package.variant} in the layout of {package.layout}, {package.num_classes} classes")
    for said in package.assumed:
        typer.echo(f"assumed: {said}")
    for key, reason in package.dropped.items():
        typer.echo(f"left out: {key} ({reason})")
    typer.echo(f"proof: {package.proof or 'none: no other implementation of it is installed, and no --golden given'}")
    typer.echo(f"wrote {out}: {summary['loads_with'].replace('DIR', str(out))}")
