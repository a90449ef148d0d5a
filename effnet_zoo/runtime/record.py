"""What an exported file says of itself: how to feed it, what its outputs mean, where it comes from, what was proven."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, cast

from msgspec import Meta

import effnet_zoo
from effnet_zoo import documents
from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints.provenance import known_of
from effnet_zoo.checkpoints.statefile import fingerprint
from effnet_zoo.errors import ArgumentError, WeightsError, first_line
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.zoo.class_names import class_names
from effnet_zoo.zoo.preprocessing import Preprocessing, preprocessing_of

KEY = "effnet_zoo"
"""The record's name in the file's metadata, where it stands as JSON."""

Output = Literal["logits", "probabilities", "features"]

MOST_OUTPUTS = 1_000_000
"""Outputs at most, because each gets a name in memory. ImageNet-21k has 21,843 classes, and the classifier of a million
alone would be larger than the 2 GB that an ONNX file can hold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an exported file says of itself: the one schema, for writing and for reading.

    Fields that are not listed are ignored when a file is read, because later versions may add some.

    Attributes:
        model: The checkpoint's name, or the variant's.
        weights: The fingerprint of the weights it was made of.
        interface: What goes in and comes out.
        images: How images become the network's input, with its size; None if nobody knows.
        output: ``logits``, ``probabilities`` or ``features``.
        outputs: How many of them an image gets, 1 to `MOST_OUTPUTS`.
        labels: A class name for each output, in their order; empty for features, and if classes have no names.
        provenance: What of timm's record is true of the weights: licence, origin, training data.
        proof: How far outputs are from the model's, and on what they were compared; empty before they were.
        quantization: How it was quantized, and what that cost; empty if it was not.
        made_by: This package's version.

    Raises:
        ArgumentError: If fields do not fit together.
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

    @classmethod
    def of(cls, model: EfficientNet, interface: Interface) -> "Record":
        """Returns what is known of a model, as it will be read back.

        Raises:
            WeightsError: If the model's ``pretrained_cfg`` has values that a record cannot hold.
        """
        known = known_of(model)
        labels = known.labels or model.pretrained_cfg.get("label_names")
        names = class_names(model.num_classes, labels) if model.num_classes else []
        numbered = bool(names) and names[0] == "class 0"
        variant = config_json.variant_of(model.arch)
        architecture = variant.name if variant else config_json.CUSTOM
        made = cls(
            model=".".join(filter(None, (architecture, known.claims.get("tag")))),
            weights=fingerprint(model.state_dict()),
            interface=interface,
            images=images_of(model, interface),
            output=cast("Output", interface.output_name(model)),
            outputs=model.num_classes or model.head_hidden_size,
            labels=() if numbered else tuple(names),
            provenance=known.claims,
        )
        return cls.from_json(made.to_json(), made.model)

    def to_json(self) -> str:
        """Returns the record as JSON.

        Raises:
            WeightsError: If a value is not one of JSON's, such as NaN.
        """
        try:
            return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise WeightsError(f"the record of {self.model} cannot be written as JSON: {first_line(error)}") from None

    @classmethod
    def from_json(cls, text: str | None, source: str) -> "Record":
        """Reads the record of a file.

        Raises:
            WeightsError: If there is none, or it is not of this schema. The message names the file and the field.
        """
        if not text:
            raise WeightsError(f"{source}: no record of effnet-zoo in its metadata: expected a file that export wrote")
        return documents.from_json(text, cls, f"{source}: its record of effnet-zoo", WeightsError)


def images_of(model: EfficientNet, interface: Interface) -> Preprocessing | None:
    """Returns how the checkpoint's images are prepared, at the size that was asked for; None if nobody knows."""
    if "mean" not in model.pretrained_cfg:
        return None
    how = preprocessing_of(model.pretrained_cfg)
    return dataclasses.replace(how, size=interface.size) if interface.size else how
