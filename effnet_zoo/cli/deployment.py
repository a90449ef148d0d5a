"""``effnet-zoo export`` and ``quantize``: models as files for other runtimes."""

import dataclasses
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option, echo

from effnet_zoo.cli.options import Force, finite, one_of, refuse_if
from effnet_zoo.cli.output import AsJson, print_json, print_rows
from effnet_zoo.cli.weights import Place, WeightOptions
from effnet_zoo.errors import ArgumentError, EngineError

if TYPE_CHECKING:
    from effnet_zoo.runtime.export import Export
    from effnet_zoo.runtime.int8.quantization import Quantized

KINDS = ("float32", "int8")


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """The input and output of a file for another runtime, and whether it may replace a file."""

    static: Annotated[
        str | None,
        Option(
            metavar="HxW", help="Height and width of the input, such as 224x224. By default, the checkpoint's size."
        ),
    ] = None
    with_preprocess: Annotated[
        bool, Option("--with-preprocess", help="Write a file that takes uint8 pixels and normalises them.")
    ] = False
    layout: Annotated[
        str,
        Option(
            callback=one_of("nhwc", "nchw"),
            help="Order of the axes of uint8 pixels: nhwc, as image decoders give it, or nchw.",
        ),
    ] = "nhwc"
    with_softmax: Annotated[
        bool, Option("--with-softmax", help="Write a file that gives probabilities instead of logits.")
    ] = False
    force: Force = False

    def arguments(self, *, uint8: bool = False) -> dict[str, Any]:
        """Return the options as the arguments that `export` and `quantize` share."""
        parts = self.static.lower().split("x") if self.static else []
        if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise ArgumentError(f"--static {self.static}: expected height and width in pixels, such as 224x224")
        return {
            "size": (int(parts[0]), int(parts[-1])) if parts else None,
            "pixels": self.layout if self.with_preprocess or uint8 else None,
            "softmax": self.with_softmax,
            "force": self.force,
        }


def export(
    place: Place,
    *,
    to: Annotated[
        str,
        Option(
            "--format",
            help="onnx, openvino, torch (a .pt2 program), aotinductor (machine code), torchscript or litert.",
        ),
    ] = "onnx",
    out: Annotated[Path | None, Option(help="File to write. By default it has the model's name.")] = None,
    dynamic: Annotated[bool, Option("--dynamic", help="Write a file that takes any height and width.")] = False,
    with_resize: Annotated[
        bool, Option("--with-resize", help="Write a file that takes photos of any size, and resizes and crops them.")
    ] = False,
    dtype: Annotated[str, Option(help="Compute in float32, float16 or bfloat16.")] = "float32",
    interface: ExportOptions,
    weights: WeightOptions,
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
    refuse_if(interface.static and dynamic, "--static is for one size, --dynamic for any: expected at most one of them")
    refuse_if(
        dynamic and with_resize,
        "--with-resize or --dynamic: expected one of them: --with-resize already takes photos of any size",
    )
    how = interface.arguments(uint8=with_resize)
    from effnet_zoo.network.options import chosen
    from effnet_zoo.runtime.export import checked_path
    from effnet_zoo.runtime.export import export as write
    from effnet_zoo.runtime.targets.table import FORMATS

    target = FORMATS[chosen(to, FORMATS, "format")]
    target.check_installed()
    stem = Path(place).stem if os.path.exists(place) else place.replace("/", "--")
    path = out or Path(f"{stem}{target.suffix}")
    checked_path(path, target, force=interface.force)  # before weights are fetched
    model = weights.open(place).model()
    written = write(model, path, format=to, dynamic=dynamic, resize=with_resize, dtype=dtype, **how)
    if as_json:
        file = {"path": str(written.path), "format": written.format, "bytes": written.bytes}
        print_json({**file, **dataclasses.asdict(written.metadata)})
    else:
        _show_export(written)


def _show_export(written: "Export") -> None:
    metadata = written.metadata
    interface, proof = metadata.interface, metadata.proof
    size = "any size" if interface.any_size else "{}x{}".format(*interface.size or ())
    takes = f"uint8 {interface.pixels}, {size}" if interface.pixels else f"float32 nchw, {size}"
    photos = (
        f"; {proof['same_label']} of {proof['photos']} photos get the model's label"
        if proof["photos"] and proof["same_label"] is not None
        else "; no photos compared: pip install 'effnet-zoo[demo]' has some"
    )
    echo(f"wrote {written.path}: {metadata.model}, {written.bytes / 1e6:.1f} MB, {interface.dtype}")
    echo(f"takes: {takes}, any batch; gives {metadata.output}, {metadata.outputs} for each image")
    echo(f"proof: relative error {proof['error']:.1e} by {', '.join(proof['ran'])}{photos}")


def quantize(
    place: Place,
    calib: Annotated[Path, Option(help="Folder with a few hundred typical images for calibration.")],
    out: Annotated[Path, Option(metavar="FILE.onnx", help="File to write.")],
    *,
    evaluation: Annotated[
        Path | None, Option("--eval", help="Folder of images to compare on. By default, the rest of --calib.")
    ] = None,
    labelled: Annotated[
        bool,
        Option(
            "--labelled",
            help="Measure accuracy too. It needs one folder of images for each class, named like the class.",
        ),
    ] = False,
    min_agreement: Annotated[
        float, Option(parser=finite, metavar="SHARE", help="Share of images, 0 to 1, that must keep their label.")
    ] = 0.98,
    recipe: Annotated[
        str | None, Option(help="int8, front-4, front-8 (the default) or front-8-head: see docs/deployment.md.")
    ] = None,
    search: Annotated[
        bool, Option("--search", help="Try the recipes, smallest file first, until one reaches --min-agreement.")
    ] = False,
    images: Annotated[int, Option(min=8, help="Largest number of images to calibrate with.")] = 200,
    interface: ExportOptions,
    weights: WeightOptions,
    as_json: AsJson = False,
) -> None:
    """Write a model in int8, and show what that costs. Write nothing if too many labels change.

    effnet-zoo quantize effnet_zoo_lite0.pypi_in1k --calib photos/ --out lite0-int8.onnx

    effnet-zoo quantize mine/ --calib train/ --eval val/ --labelled --search --out mine-int8.onnx

    effnet-zoo predict photo.jpg --model lite0-int8.onnx
    """
    refuse_if(search and recipe, "--recipe is one, --search tries all: expected at most one of them")
    how = interface.arguments()
    from effnet_zoo.runtime.export import checked_path
    from effnet_zoo.runtime.int8.quantization import DEFAULT_RECIPE
    from effnet_zoo.runtime.int8.quantization import quantize as write
    from effnet_zoo.runtime.targets.onnx import ONNX

    checked_path(out, ONNX, force=interface.force)  # before weights are fetched
    ONNX.check_installed()
    model = weights.open(place).model()
    names = model.pretrained_cfg.get("label_names")
    refuse_if(labelled and not names, "--labelled: the model has no class names of its own: give --classes")
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
        **how,
        progress=(lambda line: echo(line, err=True)) if sys.stderr.isatty() else lambda _: None,
    )
    if as_json:
        print_json([_as_json(one) for one in tried])
    else:
        for one in tried:
            _show_quantized(one)
    last = tried[-1]
    if last.path is None:
        worst = ", ".join(list(last.figures["groups"])[:3])
        more = "calibrate with more images, like those to come" if search else "try --search, or more and other images"
        raise EngineError(
            f"{place}: int8 keeps the label of {last.figures['agreement']:.1%}, expected {min_agreement:.1%}: nothing "
            f"was written; most is lost in {worst}; {more}"
        )


def _as_json(one: "Quantized") -> dict[str, object]:
    named = {"recipe": one.recipe, "path": str(one.path) if one.path else None}
    return {**named, **one.figures, "record": dataclasses.asdict(one.metadata)}


def _show_quantized(one: "Quantized") -> None:
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
    echo(f"recipe {one.recipe}: {figures['layers']['int8']} of {figures['layers']['all']} layers in int8")
    print_rows(["", *KINDS, ""], rows, left=[""])
    left_out = f"; {figures['unreadable']} files could not be read" if figures["unreadable"] else ""
    echo(
        f"same label: {figures['agreement']:.1%} of {figures['compared_on']} images; relative error of the outputs "
        f"{figures['error']:.3f}; calibrated on {figures['calibrated_on']} others{left_out}"
    )
    costs = ", ".join(f"{group} {cost:.3f}" for group, cost in figures["groups"].items())
    echo(f"relative error with int8 in one group alone: {costs}")
    echo(f"wrote {one.path}\n" if one.path else "")
