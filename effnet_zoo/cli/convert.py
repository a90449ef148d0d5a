"""``effnet-zoo convert``"""

from pathlib import Path
from typing import Annotated

import typer

from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_json


@options.bundled
def convert(
    place: options.Place,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write. It must be empty, or not exist.")],
    *,
    to: Annotated[
        str,
        typer.Option(
            help="Layout to write: effnet_zoo (timm and geffnet read it too), efficientnet_pytorch, torchvision, "
            "transformers, keras or effnetv2_port."
        ),
    ] = "effnet_zoo",
    backbone_only: Annotated[
        bool, typer.Option("--backbone-only", help="Leave the classifier out: the result has 0 classes.")
    ] = False,
    weights: options.ConversionOptions,
    golden: Annotated[
        Path | None,
        typer.Option(help="A safetensors file with an 'image' and the 'logits' that the result must compute for it."),
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
        images=weights.images(),
        padding=weights.checked_padding(),
        bn_eps=weights.bn_eps,
        labels=weights.labels(),
        golden=golden,
        licence=weights.licence,
        backbone_only=backbone_only,
    )
    summary = {**conversion.summary(bundle), "out": str(out)}
    if as_json:
        print_json(summary)
        return
    typer.echo(f"{bundle.source}: {bundle.variant} in the layout of {bundle.layout}, {bundle.num_classes} classes")
    for assumption in bundle.assumed:
        typer.echo(f"assumed: {assumption}")
    for key, reason in bundle.dropped.items():
        typer.echo(f"left out: {key} ({reason})")
    typer.echo(f"proof: {bundle.proof or 'none: no other implementation of it is installed, and no --golden given'}")
    typer.echo(f"wrote {out}: {summary['loads_with'].replace('DIR', str(out))}")
