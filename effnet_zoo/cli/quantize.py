"""``effnet-zoo quantize``"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from effnet_zoo.cli import options
from effnet_zoo.cli.export import opened
from effnet_zoo.cli.output import AsJson, print_json, print_table
from effnet_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from effnet_zoo.runtime.int8.quantization import Quantized

WORST = 3
"""Layer groups that are named when too many labels change."""


def quantize(
    place: options.Place,
    calib: Annotated[
        Path, typer.Option(help="A folder of images like those to come; some hundreds, of all that may come.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="The file to write.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval", help="Other images to compare on; without, those of --calib that are left.", show_default=False
        ),
    ] = None,
    labelled: Annotated[
        bool,
        typer.Option("--labelled", help="The folders below are classes, by the model's names: accuracy is told too."),
    ] = False,
    min_agreement: Annotated[
        float,
        typer.Option(
            parser=options.finite, metavar="SHARE", help="How many of these must keep float32's label, 0 to 1."
        ),
    ] = 0.98,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="int8, front-4, front-8 or front-8-head: see the README; front-8 by default.", show_default=False
        ),
    ] = None,
    search: Annotated[bool, typer.Option("--search", help="Try recipes from the smallest until one agrees.")] = False,
    images: Annotated[int, typer.Option(min=8, help="Images to calibrate with, at most.")] = 200,
    static: options.Static = None,
    with_preprocess: options.WithPreprocess = False,
    layout: options.PixelLayout = "nhwc",
    with_softmax: options.WithSoftmax = False,
    variant: options.Variant = None,
    no_ema: options.NoEma = False,
    like: options.Like = None,
    classes: options.Classes = None,
    force: options.Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a model in int8, beside figures of what that costs; not at all if too many labels change.

    effnet-zoo quantize effnet_zoo_lite0.pypi_in1k --calib photos/ --out lite0-int8.onnx

    effnet-zoo quantize mine/ --calib train/ --eval val/ --labelled --search --out mine-int8.onnx

    effnet-zoo predict photo.jpg --model lite0-int8.onnx
    """
    if search and recipe:
        raise ArgumentError("--recipe is one, --search tries all: expected at most one of them")
    options.check_layout(layout)
    from effnet_zoo.runtime.destination import checked_path
    from effnet_zoo.runtime.int8.quantization import DEFAULT_RECIPE, ONNX
    from effnet_zoo.runtime.int8.quantization import quantize as write

    checked_path(out, ONNX, force=force)  # before weights are fetched
    ONNX.check_installed()
    model = opened(place, variant, like, classes, ema=not no_ema)
    names = model.pretrained_cfg.get("label_names")
    if labelled and not names:
        raise ArgumentError("--labelled: the model has no class names of its own: give --classes, in the logits' order")
    tried = write(
        model,
        out,
        calib,
        evaluation=evaluation,
        classes=names if labelled else None,
        min_agreement=min_agreement,
        recipe=recipe or DEFAULT_RECIPE,
        search=search,
        images=images,
        size=options.height_and_width(static) if static else None,
        pixels=layout if with_preprocess else None,
        softmax=with_softmax,
        force=force,
        progress=_say if sys.stderr.isatty() else lambda _: None,
    )
    if as_json:
        print_json([summary(one) for one in tried])
    else:
        for one in tried:
            _show(one)
    if tried[-1].path is None:
        worst = list(tried[-1].figures["groups"])[:WORST]
        how = (
            "try --search, or more and other images" if not search else "calibrate with more images, like those to come"
        )
        typer.echo(
            f"effnet-zoo: {place}: int8 keeps the label of {tried[-1].figures['agreement']:.1%}, expected "
            f"{min_agreement:.1%}: nothing was written; most is lost in {', '.join(worst)}; {how}",
            err=True,
        )
        raise typer.Exit(1)


def _say(what: str) -> None:
    typer.echo(what, err=True)


def summary(one: "Quantized") -> dict[str, Any]:
    """What a recipe came to, in JSON's types."""
    path = str(one.path) if one.path else None
    return {"recipe": one.recipe, "path": path, **one.figures, "record": dataclasses.asdict(one.metadata)}


def _show(one: "Quantized") -> None:
    figures = one.figures
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("", "float32", "int8", ""):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("size", *(f"{figures['bytes'][kind] / 1e6:.1f} MB" for kind in KINDS), f"{figures['size_ratio']:.3f}")
    for runtime in figures["milliseconds"]["int8"]:
        taken = [figures["milliseconds"][kind][runtime] for kind in KINDS]
        table.add_row(
            f"{runtime}, batch {figures['batch']}", *(f"{one:.1f} ms" for one in taken), f"{taken[0] / taken[1]:.2f} x"
        )
    table.add_row(
        "fastest",
        *(f"{min(figures['milliseconds'][kind].values()):.1f} ms" for kind in KINDS),
        f"{figures['speedup']:.2f} x",
    )
    if accuracy := figures["accuracy"]:
        table.add_row("top-1, measured", *(f"{accuracy[kind]:.1%}" for kind in KINDS))
    typer.echo(f"recipe {one.recipe}: {figures['layers']['int8']} of {figures['layers']['all']} layers in int8")
    print_table(table)
    left_out = f"; {figures['unreadable']} files could not be read" if figures["unreadable"] else ""
    typer.echo(
        f"same label: {figures['agreement']:.1%} of {figures['compared_on']} images; relative error of the outputs "
        f"{figures['error']:.3f}; calibrated on {figures['calibrated_on']} others{left_out}"
    )
    costs = ", ".join(f"{group} {cost:.3f}" for group, cost in figures["groups"].items())
    typer.echo(f"relative error by int8 there alone: {costs}")
    typer.echo(f"wrote {one.path}\n" if one.path else "")


KINDS = ("float32", "int8")
