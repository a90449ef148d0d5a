"""What an exported file says of itself: how to feed it, what its outputs mean, where it comes from, what was proven.

This module imports no torch: a program that only runs an exported file reads these metadata too.
"""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

import effnet_zoo
from effnet_zoo import documents
from effnet_zoo.errors import ArgumentError, WeightsError, first_line
from effnet_zoo.runtime.interface import Interface, Output
from effnet_zoo.zoo.preprocessing import Preprocessing

KEY = "effnet_zoo"
"""Name of the entry in the file's own metadata that holds ours, as JSON."""

MOST_OUTPUTS = 1_000_000
"""Outputs at most, because each gets a name in memory. ImageNet-21k has 21,843 classes. The classifier of a million
classes would be larger than the 2 GB that an ONNX file can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What an exported file says of itself: one schema, for writing and for reading.

    Fields that are not listed are ignored when a file is read, because later versions may add some.

    Attributes:
        model: The name of the checkpoint or of the variant.
        weights: The fingerprint of the weights that the file was made of.
        interface: What goes in and comes out.
        images: How images become the network's input, with its size; None if unknown.
        output: ``logits``, ``probabilities`` or ``features``.
        outputs: How many numbers an image gets, 1 to `MOST_OUTPUTS`.
        labels: A class name for each output, in their order; empty for features, and if classes have no names.
        provenance: What is known of the weights: licence, origin, training data.
        proof: How far outputs are from the model's, and on which images; empty before they were compared.
        quantization: How the file was quantized, and what that cost; empty for float files.
        made_by: The version of this package.

    Raises:
        ArgumentError: If the fields do not fit together.
    """

    model: str
    weights: str
    interface: Interface
    images: Preprocessing | None
    output: Output
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
        """Return the metadata as JSON.

        Raises:
            WeightsError: If JSON has no such value, for example NaN.
        """
        try:
            return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"metadata of {self.model} cannot be written as JSON: {first_line(error)}") from None

    @classmethod
    def from_json(cls, text: str | None, source: str) -> "Metadata":
        """Read the metadata of a file.

        Raises:
            WeightsError: If `text` is empty, or does not follow this schema. The message names the file and the field.
        """
        if not text:
            raise WeightsError(f"{source}: it has no metadata of effnet-zoo: expected a file that export wrote")
        return documents.from_json(text, cls, f"{source}: its metadata of effnet-zoo", WeightsError)
