"""``effnet-zoo export``"""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effnet_zoo.cli import options
from effnet_zoo.cli.output import AsJson, print_json
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, quoted

if TYPE_CHECKING:
    from effnet_zoo.runtime.export import Export


@options.bundled
def export(
    place: options.Place,
    *,
    to: Annotated[
        str,
        typer.Option(
            "--format",
            help="onnx, openvino, torch (.pt2, of torch.export), aotinductor (machine code), torchscript or litert.",
        ),
    ] = "onnx",
    out: Annotated[Path | None, typer.Option(help="File to write. By default it has the model's name.")] = None,
    dynamic: Annotated[bool, typer.Option("--dynamic", help="Write a file that takes any height and width.")] = False,
    with_resize: Annotated[
        bool,
        typer.Option("--with-resize", help="Write a file that takes uint8 pixels of any size, and resizes and crops."),
    ] = False,
    dtype: Annotated[str, typer.Option(help="Compute in float32, float16 or bfloat16.")] = "float32",
    interface: options.ExportOptions,
    weights: options.WeightOptions,
    as_json: AsJson = False,
) -> None:
    """Write a model as a file for another runtime. The file is run and compared with the model first.

    effnet-zoo export effnet_zoo_lite0.pypi_in1k                                # ONNX, for the checkpoint's own size

    effnet-zoo export effnet_zoo_b0 --dynamic --out any-size.onnx

    effnet-zoo export effnet_zoo_b0 --with-resize --with-softmax --out photos.onnx   # uint8 photos to probabilities

    effnet-zoo export mine/ --format openvino --static 256x320

    effnet-zoo export effnet_zoo_v2_s --format aotinductor

    effnet-zoo predict photo.jpg --model photos.onnx   # the file knows its classes and preprocessing
    """
    if interface.static and dynamic:
        raise ArgumentError("--static is for one size, --dynamic for any: expected at most one of them")
    if dynamic and with_resize:
        raise ArgumentError("--with-resize ends at one size, --dynamic takes any: expected at most one of them")
    from effnet_zoo.runtime.targets import FORMATS

    if to not in FORMATS:
        raise UnknownNameError(
            f"unknown format {quoted(to)}: expected {', '.join(FORMATS)}.{did_you_mean(to, FORMATS)}"
        )
    size = interface.size()
    from effnet_zoo.runtime.export import checked_path
    from effnet_zoo.runtime.export import export as write

    FORMATS[to].check_installed()
    stem = Path(place).stem if os.path.exists(place) else place.replace("/", "--")
    path = out or Path(f"{stem}{FORMATS[to].suffix}")
    checked_path(path, FORMATS[to], force=interface.force)  # before weights are fetched
    written = write(
        weights.open(place).model(),
        path,
        format=to,
        size=size,
        dynamic=dynamic,
        pixels=interface.layout if interface.with_preprocess or with_resize else None,
        resize=with_resize,
        softmax=interface.with_softmax,
        dtype=dtype,
        force=interface.force,
    )
    if as_json:
        file = {"path": str(written.path), "format": written.format, "bytes": written.bytes}
        print_json({**file, **dataclasses.asdict(written.metadata)})
    else:
        _show(written)


def _show(written: "Export") -> None:
    metadata = written.metadata
    interface, proof = metadata.interface, metadata.proof
    size = "any size" if interface.any_size else "{}x{}".format(*interface.size or ())
    takes = f"uint8 {interface.pixels}, {size}" if interface.pixels else f"float32 nchw, {size}"
    photos = (
        f"; {proof['same_label']} of {proof['photos']} photos get the model's label"
        if proof["photos"] and proof["same_label"] is not None
        else "; no photos compared: pip install 'effnet-zoo[demo]' has some"
    )
    typer.echo(f"wrote {written.path}: {metadata.model}, {written.bytes / 1e6:.1f} MB, {interface.dtype}")
    typer.echo(f"takes: {takes}, any batch; gives {metadata.output}, {metadata.outputs} for each image")
    typer.echo(f"proof: relative error {proof['error']:.1e} by {', '.join(proof['ran'])}{photos}")
