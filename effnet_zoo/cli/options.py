"""Options that several commands take, and the objects they stand for."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from effnet_zoo.arch.families import Padding
from effnet_zoo.errors import ArgumentError, quoted

if TYPE_CHECKING:
    from effnet_zoo.transfer.conversion import Images


def finite(text: str) -> float:
    """Reads a number with a fraction: the parser of every such option, as typer's own takes NaN and infinity too.

    Raises:
        BadParameter: If it is no finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{quoted(text)} is not a finite number.")
    return number


Place = Annotated[
    str,
    typer.Argument(
        metavar="FILE_OR_REPO",
        help="A weight file, a folder with one, owner/name on the Hub, or a checkpoint's name.",
        show_default=False,
    ),
]
Variant = Annotated[
    str | None, typer.Option(help="The architecture, if you know better than the file tells.", show_default=False)
]
NoEma = Annotated[bool, typer.Option("--no-ema", help="Take raw weights where a file has moving averages too.")]
Like = Annotated[
    str | None,
    typer.Option(help="Prepare images as this checkpoint wants them: effnet_zoo_b0.ap_in1k.", show_default=False),
]
Mean = Annotated[str | None, typer.Option(help="Of RGB scaled to 0..1: '0.5,0.5,0.5'.", show_default=False)]
Std = Annotated[str | None, typer.Option(help="Likewise.", show_default=False)]
Size = Annotated[int | None, typer.Option(min=32, help="Side of the input in pixels.", show_default=False)]
Interpolation = Annotated[str | None, typer.Option(help="bicubic, bilinear or nearest.", show_default=False)]
CropPct = Annotated[
    float | None,
    typer.Option(parser=finite, metavar="SHARE", help="Input size over resized size, 0.01 to 1.", show_default=False),
]
PaddingOption = Annotated[
    str | None, typer.Option("--padding", help="same or symmetric, instead of the layout's.", show_default=False)
]
BnEps = Annotated[
    float | None,
    typer.Option(
        parser=finite, metavar="NUMBER", help="Batch norm epsilon, instead of the layout's.", show_default=False
    ),
]
Classes = Annotated[
    Path | None,
    typer.Option(help="Class names: a text file, JSON, or an ImageFolder.", show_default=False),
]
Licence = Annotated[
    str | None, typer.Option("--license", help="Of the weights, as an SPDX identifier: apache-2.0.", show_default=False)
]

Static = Annotated[
    str | None,
    typer.Option(
        metavar="HxW", help="For images of this size, such as 224x224; the checkpoint's by default.", show_default=False
    ),
]
WithPreprocess = Annotated[
    bool, typer.Option("--with-preprocess", help="The file takes uint8 pixels, and normalises them itself.")
]
PixelLayout = Annotated[str, typer.Option("--layout", help="Of the pixels: nhwc, as decoders give them, or nchw.")]
WithSoftmax = Annotated[bool, typer.Option("--with-softmax", help="The file gives probabilities instead of logits.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")]


def images(
    like: str | None,
    mean: str | None,
    std: str | None,
    size: int | None,
    interpolation: str | None,
    crop_pct: float | None,
) -> "Images":
    """How images are prepared, as far as the options say."""
    from effnet_zoo.transfer.conversion import Images

    return Images(
        like=like,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        size=size,
        interpolation=interpolation,
        crop_pct=crop_pct,
    )


def padding(value: str | None) -> Padding | None:
    """A padding by its name.

    Raises:
        ArgumentError: If there is no such padding.
    """
    if value is not None and value not in get_args(Padding):
        raise ArgumentError(f"--padding {value}: expected {' or '.join(get_args(Padding))}")
    return cast("Padding | None", value)


def labels(path: Path | None) -> tuple[str, ...] | None:
    """Class names, if a file or folder of them is given."""
    from effnet_zoo.zoo.class_names import read_labels

    return read_labels(path) if path else None


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


def check_layout(value: str) -> None:
    """Whether pixels can lie so.

    Raises:
        ArgumentError: If not.
    """
    if value not in ("nhwc", "nchw"):
        raise ArgumentError(f"--layout {value}: expected nhwc or nchw")


def height_and_width(text: str) -> tuple[int, int]:
    """A size as it is typed.

    Raises:
        ArgumentError: If it is none.
    """
    parts = text.lower().split("x")
    if len(parts) == 1:
        parts *= 2
    if len(parts) != 2 or not all(part.isascii() and part.isdecimal() for part in parts):
        raise ArgumentError(f"--static {text}: expected height and width in pixels, such as 224x224")
    return int(parts[0]), int(parts[1])
