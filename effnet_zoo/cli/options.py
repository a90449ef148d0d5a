"""Options that several commands share, and bundles of them as one object."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from effnet_zoo.arch.families import Padding
from effnet_zoo.errors import ArgumentError, quoted

if TYPE_CHECKING:
    from effnet_zoo.checkpoints.bundle import Bundle
    from effnet_zoo.transfer.conversion import Images


def bundled(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command one option for each field of a dataclass, in place of the parameter that the dataclass annotates.

    Every field is declared as typer declares a parameter, and has a default.
    """
    parameters = inspect.signature(command).parameters.values()
    bundles = {each.name: fields(each.annotation) for each in parameters if is_dataclass(each.annotation)}
    types = {each.name: each.annotation for each in parameters}

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        for name, parts in bundles.items():
            values[name] = types[name](**{part.name: values.pop(part.name) for part in parts})
        command(**values)

    options: list[inspect.Parameter] = []
    for each in parameters:
        parts = bundles.get(each.name)
        options += (
            [each]
            if parts is None
            else [each.replace(name=p.name, annotation=p.type, default=p.default) for p in parts]
        )
    options = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in options]
    with_options.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in options}
    return with_options


def finite(text: str) -> float:
    """Parse the value of an option that is a number: typer's own parser accepts NaN and infinity too.

    Raises:
        BadParameter: If the text is not a finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise typer.BadParameter(f"{quoted(text)} is not a finite number.")
    return number


def check_choice(option: str, value: str | None, choices: Sequence[str]) -> None:
    """Check the value of an option that has a few values; None means that the option was not given.

    Raises:
        ArgumentError: If the value is not one of them.
    """
    if value is not None and value not in choices:
        raise ArgumentError(f"{option} {value}: expected {' or '.join(choices)}")


Place = Annotated[
    str,
    typer.Argument(
        metavar="FILE_OR_REPO",
        help="A weight file, a folder that holds one, a repository owner/name on the Hub, or the name of a checkpoint.",
    ),
]
Variant = Annotated[
    str | None, typer.Option(help="Name of the architecture. By default it is found out from the weights.")
]
NoEma = Annotated[
    bool, typer.Option("--no-ema", help="Use the raw weights of a file that also holds moving averages of them.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the output file if it exists.")]


@dataclass(frozen=True, kw_only=True)
class WeightOptions:
    """What the user knows about weights and their file does not say."""

    variant: Variant = None
    no_ema: NoEma = False
    like: Annotated[
        str | None, typer.Option(help="Use the preprocessing of this checkpoint, such as effnet_zoo_b0.ap_in1k.")
    ] = None
    classes: Annotated[
        Path | None,
        typer.Option(help="Class names in the order of the logits: a text file, a JSON file, or an ImageFolder."),
    ] = None

    def images(self) -> "Images":
        """Return how images are prepared, as far as the options say."""
        from effnet_zoo.transfer.conversion import Images

        return Images(like=self.like)

    def labels(self) -> tuple[str, ...] | None:
        """Read the class names."""
        from effnet_zoo.zoo.class_names import read_labels

        return read_labels(self.classes) if self.classes else None

    def open(self, place: str) -> "Bundle":
        """Open weights, with what the options say about them."""
        from effnet_zoo.transfer.conversion import with_overrides
        from effnet_zoo.transfer.opening import open_package

        bundle = open_package(place, variant=self.variant, ema=not self.no_ema)
        return with_overrides(bundle, self.images(), labels=self.labels())


@dataclass(frozen=True, kw_only=True)
class ConversionOptions(WeightOptions):
    """The same for commands that publish weights, or write them in another layout."""

    mean: Annotated[
        str | None, typer.Option(help="Mean of each channel, where pixels are scaled to 0..1: '0.5,0.5,0.5'.")
    ] = None
    std: Annotated[str | None, typer.Option(help="Standard deviation of each channel, on the same scale.")] = None
    size: Annotated[int | None, typer.Option(min=32, help="Height and width of the input in pixels.")] = None
    interpolation: Annotated[str | None, typer.Option(help="How images are resized: bicubic, bilinear or nearest.")] = (
        None
    )
    crop_pct: Annotated[
        float | None,
        typer.Option(parser=finite, metavar="SHARE", help="Input size divided by resized size, from 0.01 to 1."),
    ] = None
    padding: Annotated[
        str | None, typer.Option(help="Padding of convolutions: same or symmetric. By default, the layout's.")
    ] = None
    bn_eps: Annotated[
        float | None,
        typer.Option(parser=finite, metavar="NUMBER", help="Epsilon of batch norm. By default, the layout's."),
    ] = None
    licence: Annotated[
        str | None, typer.Option("--license", help="Licence of the weights, as an SPDX identifier such as apache-2.0.")
    ] = None

    def __post_init__(self) -> None:
        check_choice("--padding", self.padding, get_args(Padding))

    def images(self) -> "Images":
        from effnet_zoo.transfer.conversion import Images

        return Images(
            like=self.like,
            mean=_numbers("--mean", self.mean),
            std=_numbers("--std", self.std),
            size=self.size,
            interpolation=self.interpolation,
            crop_pct=self.crop_pct,
        )

    def checked_padding(self) -> Padding | None:
        """Return the padding as a type."""
        return cast("Padding | None", self.padding)

    def open(self, place: str) -> "Bundle":
        from effnet_zoo.transfer.conversion import with_overrides
        from effnet_zoo.transfer.opening import open_package

        bundle = open_package(place, variant=self.variant, ema=not self.no_ema)
        return with_overrides(bundle, self.images(), self.checked_padding(), self.bn_eps, self.labels(), self.licence)


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


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a file for another runtime takes and gives, and whether it may replace a file."""

    static: Annotated[
        str | None,
        typer.Option(
            metavar="HxW", help="Fix the input to this size, such as 224x224. By default, the checkpoint's size."
        ),
    ] = None
    with_preprocess: Annotated[
        bool, typer.Option("--with-preprocess", help="Write a file that takes uint8 pixels and normalises them.")
    ] = False
    layout: Annotated[
        str, typer.Option(help="Order of the axes of uint8 pixels: nhwc, as image decoders give it, or nchw.")
    ] = "nhwc"
    with_softmax: Annotated[
        bool, typer.Option("--with-softmax", help="Write a file that gives probabilities instead of logits.")
    ] = False
    force: Force = False

    def __post_init__(self) -> None:
        check_choice("--layout", self.layout, ("nhwc", "nchw"))

    def size(self) -> tuple[int, int] | None:
        """Return height and width in pixels.

        Raises:
            ArgumentError: If the text is not a size.
        """
        if not self.static:
            return None
        parts = self.static.lower().split("x")
        if len(parts) > 2 or not all(part.isascii() and part.isdecimal() for part in parts):
            raise ArgumentError(f"--static {self.static}: expected height and width in pixels, such as 224x224")
        return int(parts[0]), int(parts[-1])
