"""What an exported file says of itself: how to feed it, what its outputs mean, where it comes from, what was proven."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import effnet_zoo
from effnet_zoo import config
from effnet_zoo.errors import WeightsError
from effnet_zoo.graphs.interface import Interface
from effnet_zoo.ledger import Preprocessing
from effnet_zoo.model import EfficientNet
from effnet_zoo.predict import class_names
from effnet_zoo.preprocess import preprocessing_of
from effnet_zoo.provenance import known_of
from effnet_zoo.statefile import fingerprint

KEY = "effnet_zoo"
"""Under which it stands in the file's metadata, as JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What an exported file says of itself.

    Attributes:
        model: The checkpoint's name, or the variant's.
        weights: The fingerprint of the weights it was made of.
        interface: What goes in and comes out.
        images: How images become the network's input, with its size; None if nobody knows.
        output: ``logits``, ``probabilities`` or ``features``.
        outputs: How many of them an image gets.
        labels: Class names in the order of the outputs; empty for features.
        provenance: What of timm's record is true of the weights: licence, origin, training data.
        proof: How far outputs are from the model's, and on what they were compared; empty before they were.
        quantization: How it was quantized, and what that cost; empty if it was not.
        made_by: This package's version.
    """

    model: str
    weights: str
    interface: Interface
    images: Preprocessing | None
    output: str
    outputs: int
    labels: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    proof: Mapping[str, Any] = field(default_factory=dict)
    quantization: Mapping[str, Any] = field(default_factory=dict)
    made_by: str = effnet_zoo.__version__

    @classmethod
    def of(cls, model: EfficientNet, interface: Interface) -> "Record":
        """What is known of a model."""
        known = known_of(model)
        names = class_names(model.num_classes, known.labels) if model.num_classes else []
        numbered = bool(names) and names[0] == "class 0"
        variant = config.variant_of(model.arch)
        architecture = variant.name if variant else config.CUSTOM
        return cls(
            model=".".join(filter(None, (architecture, known.claims.get("tag")))),
            weights=fingerprint(model.state_dict()),
            interface=interface,
            images=images_of(model, interface),
            output=interface.output_name(model),
            outputs=model.num_classes or model.head_hidden_size,
            labels=() if numbered else tuple(names),
            provenance=known.claims,
        )

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, source: str) -> "Record":
        """What a file says.

        Raises:
            WeightsError: If it says nothing, or not in this form.
        """
        if not text:
            raise WeightsError(f"{source}: no record of effnet-zoo in its metadata: expected a file that export wrote")
        try:
            values = json.loads(text)
            interface = values["interface"]
            if interface["size"] is not None:
                interface["size"] = tuple(interface["size"])
            images = values["images"]
            if images is not None:
                images = Preprocessing(**{**images, **{key: tuple(images[key]) for key in ("size", "mean", "std")}})
            labels = tuple(values["labels"])
            return cls(**{**values, "interface": Interface(**interface), "images": images, "labels": labels})
        except (ValueError, TypeError, KeyError) as error:
            raise WeightsError(
                f"{source}: its record of effnet-zoo cannot be read ({error!r}): export it again with this version"
            ) from None


def images_of(model: EfficientNet, interface: Interface) -> Preprocessing | None:
    """How the checkpoint's images are prepared, at the size that was asked for."""
    if "mean" not in model.pretrained_cfg:
        return None
    how = preprocessing_of(model.pretrained_cfg)
    return dataclasses.replace(how, size=interface.size) if interface.size else how
