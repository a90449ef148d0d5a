"""``effnet-zoo quantize``"""

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_json, print_rows
from effnet_zoo.errors import ArgumentError

if TYPE_CHECKING:
    from effnet_zoo.runtime.int8.quantization import Quantized

KINDS = ("float32", "int8")

WORST = 3
"""Number of layer groups that are named when too many labels change."""


@options.bundled
def quantize(
    place: options.Place,
    calib: Annotated[
        Path, typer.Option(help="Folder of images to calibrate with: some hundreds, as varied as those to predict.")
    ],
    out: Annotated[Path, typer.Option(metavar="FILE.onnx", help="File to write.")],
    *,
    evaluation: Annotated[
        Path | None,
        typer.Option("--eval", help="Folder of images to compare on. By default, images of --calib that are left."),
    ] = None,
    labelled: Annotated[
        bool,
        typer.Option(
            "--labelled", help="Measure accuracy too: the image folders have a folder for each class, named as it is."
        ),
    ] = False,
    min_agreement: Annotated[
        float,
        typer.Option(
            parser=options.finite,
            metavar="SHARE",
            help="Share of the images, 0 to 1, that must get the label that float32 gives.",
        ),
    ] = 0.98,
    recipe: Annotated[
        str | None,
        typer.Option(help="int8, front-4, front-8 or front-8-head: see docs/deployment.md. By default, front-8."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Try the recipes, smallest file first, until enough labels agree.")
    ] = False,
    images: Annotated[int, typer.Option(min=8, help="Largest number of images to calibrate with.")] = 200,
    interface: options.ExportOptions,
    weights: options.WeightOptions,
    as_json: AsJson = False,
) -> None:
    """Write a model in int8, and show what that costs. Write nothing if too many labels change.

    effnet-zoo quantize effnet_zoo_lite0.pypi_in1k --calib photos/ --out lite0-int8.onnx

    effnet-zoo quantize mine/ --calib train/ --eval val/ --labelled --search --out mine-int8.onnx

    effnet-zoo predict photo.jpg --model lite0-int8.onnx
    """
    if search and recipe:
        raise ArgumentError("--recipe is one, --search tries all: expected at most one of them")
    size = interface.size()
    from effnet_zoo.runtime.export import checked_path
    from effnet_zoo.runtime.int8.quantization import DEFAULT_RECIPE
    from effnet_zoo.runtime.int8.quantization import quantize as write
    from effnet_zoo.runtime.targets import ONNX

    checked_path(out, ONNX, force=interface.force)  # before weights are fetched
    ONNX.check_installed()
    model = weights.open(place).model()
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
        size=size,
        pixels=interface.layout if interface.with_preprocess else None,
        softmax=interface.with_softmax,
        force=interface.force,
        progress=_say if sys.stderr.isatty() else lambda _: None,
    )
    if as_json:
        print_json([{**_as_plain(one), **one.figures, "record": dataclasses.asdict(one.metadata)} for one in tried])
    else:
        for one in tried:
            _show(one)
    last = tried[-1]
    if last.path is None:
        worst = ", ".join(list(last.figures["groups"])[:WORST])
        advice = (
            "calibrate with more images, like those to come" if search else "try --search, or more and other images"
        )
        _say(
            f"effnet-zoo: {place}: int8 keeps the label of {last.figures['agreement']:.1%}, expected "
            f"{min_agreement:.1%}: nothing was written; most is lost in {worst}; {advice}"
        )
        raise typer.Exit(1)


def _say(line: str) -> None:
    typer.echo(line, err=True)


def _as_plain(one: "Quantized") -> dict[str, str | None]:
    return {"recipe": one.recipe, "path": str(one.path) if one.path else None}


def _show(one: "Quantized") -> None:
    figures = one.figures
    times = figures["milliseconds"]
    rows = [["size", *(f"{figures['bytes'][kind] / 1e6:.1f} MB" for kind in KINDS), f"{figures['size_ratio']:.3f}"]]
    for runtime in times["int8"]:
        taken = [times[kind][runtime] for kind in KINDS]
        ratio = f"{taken[0] / taken[1]:.2f} x"
        rows.append([f"{runtime}, batch {figures['batch']}", *(f"{each:.1f} ms" for each in taken), ratio])
    fastest = [f"{min(times[kind].values()):.1f} ms" for kind in KINDS]
    rows.append(["fastest", *fastest, f"{figures['speedup']:.2f} x"])
    if accuracy := figures["accuracy"]:
        rows.append(["top-1, measured", *(f"{accuracy[kind]:.1%}" for kind in KINDS), ""])
    typer.echo(f"recipe {one.recipe}: {figures['layers']['int8']} of {figures['layers']['all']} layers in int8")
    print_rows(["", *KINDS, ""], rows, left=[""])
    left_out = f"; {figures['unreadable']} files could not be read" if figures["unreadable"] else ""
    typer.echo(
        f"same label: {figures['agreement']:.1%} of {figures['compared_on']} images; relative error of the outputs "
        f"{figures['error']:.3f}; calibrated on {figures['calibrated_on']} others{left_out}"
    )
    costs = ", ".join(f"{group} {cost:.3f}" for group, cost in figures["groups"].items())
    typer.echo(f"relative error with int8 in one group alone: {costs}")
    typer.echo(f"wrote {one.path}\n" if one.path else "")
