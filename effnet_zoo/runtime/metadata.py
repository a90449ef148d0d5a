"""Describe an exported file inside the file: what it takes and gives, where it comes from, and what was proven of it.

This module imports no torch: a program that only runs an exported file reads these metadata too.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from msgspec import Meta

import effnet_zoo
from effnet_zoo import documents
from effnet_zoo.arch.spec import MIN_SIZE
from effnet_zoo.errors import ArgumentError, WeightsError, first_line, quoted
from effnet_zoo.zoo.preprocessing import Preprocessing

Size = tuple[int, int]
"""Height and width in pixels."""

OutputKind = Literal["logits", "probabilities", "features"]

COMPUTE_DTYPES = ("float32", "bfloat16", "float16")
"""Names of the dtypes that a model can compute in."""

KEY = "effnet_zoo"
"""Name of the entry in the file's own metadata that holds ours, as JSON."""

MOST_OUTPUTS = 1_000_000
"""Largest number of outputs, because each gets a name in memory. ImageNet-21k has 21,843 classes. The classifier of a
million classes would be larger than the 2 GB that an ONNX file can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """The input and output of a model. Outputs are float32 (n, outputs), whichever dtype the model computes in.

    Attributes:
        size: Height and width of the images that the network sees; None for any.
        pixels: None for float32 images (n, channels, height, width) that are already normalised; ``nhwc`` or ``nchw``
            for uint8 images, 0 to 255, that are normalised inside.
        resize: Whether uint8 images may have any size, and are resized and cropped inside.
        softmax: Whether probabilities come out instead of logits.
        dtype: One of `COMPUTE_DTYPES`.
    """

    size: Size | None = None
    pixels: str | None = None
    resize: bool = False
    softmax: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.pixels not in (None, "nhwc", "nchw"):
            raise ArgumentError(f"pixels={quoted(self.pixels)}: expected nhwc, nchw or None")
        if self.dtype not in COMPUTE_DTYPES:
            raise ArgumentError(f"dtype={quoted(self.dtype)}: expected {', '.join(COMPUTE_DTYPES)}")
        if self.size is not None and min(self.size) < MIN_SIZE:
            raise ArgumentError(f"size {self.size[0]}x{self.size[1]}: expected at least {MIN_SIZE}x{MIN_SIZE} pixels")
        if self.resize and (self.pixels is None or self.size is None):
            raise ArgumentError("resizing inside takes uint8 images and ends at one size: expected both")

    @property
    def any_size(self) -> bool:
        """Whether images of every height and width are taken."""
        return self.size is None or self.resize

    def output_of(self, num_classes: int) -> OutputKind:
        """Return what comes out of a model with this number of classes."""
        if not num_classes:
            return "features"
        return "probabilities" if self.softmax else "logits"

    def image_shape(self, channels: int, size: Size) -> tuple[int, int, int]:
        """Return (channels, height, width) or (height, width, channels), depending on `pixels`."""
        return (*size, channels) if self.pixels == "nhwc" else (channels, *size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """The facts that an exported file states of itself: one schema, for writing and for reading.

    Fields that are not listed are ignored when a file is read, because later versions may add some.

    Attributes:
        model: The name of the checkpoint or of the variant.
        weights: The fingerprint of the weights that the file was made of.
        interface: What goes in and comes out.
        images: How images become the network's input, with its size; None if unknown.
        output: What the outputs are.
        outputs: How many numbers an image gets.
        labels: A class name for each output, in their order; empty for features, and if classes have no names.
        provenance: What is known of the weights: licence, origin, training data.
        proof: How far outputs are from the model's, and on which images; empty before they were compared.
        quantization: How the file was quantized, and what that cost; empty for float files.
        made_by: The version of this package.
    """

    model: str
    weights: str
    interface: Interface
    images: Preprocessing | None
    output: OutputKind
    outputs: Annotated[int, Meta(ge=1, le=MOST_OUTPUTS)]
    labels: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = effnet_zoo.__version__

    def __post_init__(self) -> None:
        if len(self.labels) not in (0, self.outputs):
            raise ArgumentError(f"{len(self.labels)} labels for {self.outputs} outputs: expected one for each, or none")
        if self.interface.softmax != (self.output == "probabilities"):
            raise ArgumentError(f"output {self.output}: expected probabilities if, and only if, softmax is inside")
        size = self.interface.size
        if self.images is not None and size is not None and self.images.size != size:
            raise ArgumentError(f"images of {self.images.size} for an input of {size}: expected one size")

    def to_json(self) -> str:
        """Return the metadata as JSON. Raise WeightsError if JSON has no such value, for example NaN."""
        try:
            return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"metadata of {self.model} cannot be written as JSON: {first_line(error)}") from None

    @classmethod
    def from_json(cls, text: str | None, source: str) -> "Metadata":
        """Read the metadata of a file. Raise WeightsError if there are none, or they do not follow this schema."""
        if not text:
            raise WeightsError(f"{source}: it has no metadata of effnet-zoo: expected a file that export wrote")
        return documents.from_json(text, cls, f"{source}: its metadata of effnet-zoo", WeightsError)
