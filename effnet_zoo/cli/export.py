"""``effnet-zoo export``"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_json
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, quoted

if TYPE_CHECKING:
    from effnet_zoo.network.model import EfficientNet
    from effnet_zoo.runtime.export import Export

FORMATS = ("onnx", "openvino", "torch", "aotinductor", "torchscript", "litert")


def export(
    place: options.Place,
    to: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, openvino, torch (torch.export's .pt2), aotinductor (machine code), torchscript or litert.",
        ),
    ] = "onnx",
    out: Annotated[
        Path | None, typer.Option(help="The file to write; by default the model's name.", show_default=False)
    ] = None,
    static: options.Static = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="For any height and width.")] = False,
    with_preprocess: options.WithPreprocess = False,
    layout: options.PixelLayout = "nhwc",
    with_resize: Annotated[
        bool, typer.Option("--with-resize", help="Takes uint8 pixels of any size, resizes and crops them too.")
    ] = False,
    with_softmax: options.WithSoftmax = False,
    dtype: Annotated[str, typer.Option(help="What is computed in: float32, float16 or bfloat16.")] = "float32",
    variant: options.Variant = None,
    no_ema: options.NoEma = False,
    like: options.Like = None,
    classes: options.Classes = None,
    force: options.Force = False,
    as_json: AsJson = False,
) -> None:
    """Write a model for another runtime, and compare what the file computes with the model before it counts.

    effnet-zoo export effnet_zoo_lite0.pypi_in1k                                # ONNX, for the checkpoint's own size

    effnet-zoo export effnet_zoo_b0 --dynamic --out any-size.onnx

    effnet-zoo export effnet_zoo_b0 --with-resize --with-softmax --out photos.onnx   # uint8 photos to probabilities

    effnet-zoo export mine/ --format openvino --static 256x320

    effnet-zoo export effnet_zoo_v2_s --format aotinductor

    effnet-zoo predict photo.jpg --model photos.onnx   # which knows its classes and preprocessing
    """
    if static and dynamic:
        raise ArgumentError("--static is for one size, --dynamic for any: expected at most one of them")
    if dynamic and with_resize:
        raise ArgumentError("--with-resize ends at one size, --dynamic takes any: expected at most one of them")
    options.check_layout(layout)
    if to not in FORMATS:
        raise UnknownNameError(
            f"unknown format {quoted(to)}: expected {', '.join(FORMATS)}.{did_you_mean(to, FORMATS)}"
        )
    size = options.height_and_width(static) if static else None
    from effnet_zoo.runtime.export import checked_path
    from effnet_zoo.runtime.export import export as write
    from effnet_zoo.runtime.formats import FORMATS as KNOWN

    KNOWN[to].check_installed()
    stem = Path(place).stem if os.path.exists(place) else place.replace("/", "--")
    path = out or Path(f"{stem}{KNOWN[to].suffix}")
    checked_path(path, KNOWN[to], force=force)  # before weights are fetched
    model = opened(place, variant, like, classes, ema=not no_ema)
    done = write(
        model,
        path,
        format=to,
        size=size,
        dynamic=dynamic,
        pixels=layout if with_preprocess or with_resize else None,
        resize=with_resize,
        softmax=with_softmax,
        dtype=dtype,
        force=force,
    )
    if as_json:
        print_json(summary(done))
        return
    for line in described(done):
        typer.echo(line)


def opened(place: str, variant: str | None, like: str | None, classes: Path | None, *, ema: bool) -> "EfficientNet":
    """The model that an argument names, in eval mode."""
    from effnet_zoo.transfer.conversion import with_overrides
    from effnet_zoo.transfer.opening import open_package

    package = open_package(place, variant=variant, ema=ema)
    images = options.images(like, None, None, None, None, None)
    return with_overrides(package, images, labels=options.labels(classes)).model()


def summary(done: "Export") -> dict[str, Any]:
    """A file in JSON's types."""
    record = dataclasses.asdict(done.record)
    return {"path": str(done.path), "format": done.format, "bytes": done.bytes, **record}


def described(done: "Export") -> list[str]:
    """A file in lines for people."""
    record, interface = done.record, done.record.interface
    size = "any size" if interface.any_size else "{}x{}".format(*interface.size or ())
    takes = f"uint8 {interface.pixels}, {size}" if interface.pixels else f"float32 nchw, {size}"
    proof = record.proof
    photos = (
        f"; {proof['same_label']} of {proof['photos']} photos get the model's label"
        if proof["photos"] and proof["same_label"] is not None
        else "; no photos compared: pip install 'effnet-zoo[demo]' has some"
    )
    return [
        f"wrote {done.path}: {record.model}, {done.bytes / 1e6:.1f} MB, {interface.dtype}",
        f"takes: {takes}, any batch; gives {record.output}, {record.outputs} an image",
        f"proof: relative error {proof['error']:.1e} by {', '.join(proof['ran'])}{photos}",
    ]
