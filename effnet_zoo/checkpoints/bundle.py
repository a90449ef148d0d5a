"""Weights with all that is needed to use them again: network, classes, preprocessing, provenance and proof."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints import config_json, locate, statefile
from effnet_zoo.checkpoints.loading import LoadReport, load_state
from effnet_zoo.checkpoints.pretrained_cfg import known_of, origin_of
from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.errors import ArgumentError, InputError, WeightsError
from effnet_zoo.layouts.keytable import State
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.zoo.class_names import checked_labels
from effnet_zoo.zoo.preprocessing import Preprocessing, image_fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """The evidence that converted weights compute what they did before.

    Attributes:
        against: The implementation that was run, with its version, or the file of expected outputs.
        error: Largest ||ours - theirs|| / ||theirs|| of the logits.
        size: (height, width) of the image.
    """

    against: str
    error: float
    size: tuple[int, int]

    def __str__(self) -> str:
        height, width = self.size
        return f"relative error {self.error:.1e} against {self.against} at {height}x{width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """Weights and what belongs to them.

    Attributes:
        source: Where they come from.
        layout: Whose keys they had.
        variant: The name of the architecture.
        arch: The network, with its numerics.
        options: ``num_classes``, ``in_chans``, ``global_pool``, ``output_stride``.
        state: Tensors under this package's keys.
        images: How images are prepared; None if it is not known.
        labels: Class names in the order of the logits; None if they are not known.
        record: What is claimed of the weights: the fields `CLAIMS` of timm's pretrained config.
        dropped: Tensors of the source left out on purpose, each with the reason.
        seen: What the file shows, in words.
        assumed: What it does not show, in words.
        proof: The evidence; None if there was nothing to compare with.
        target: The layout it was written in, if it was.
    """

    source: str
    layout: str = "effnet_zoo"
    variant: str
    arch: ArchSpec
    options: ModelOptions
    state: State
    images: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)
    dropped: Mapping[str, str] = field(default_factory=dict)
    seen: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    proof: Proof | None = None
    target: str | None = None

    @property
    def num_classes(self) -> int:
        """Rows of the classifier, 0 without one."""
        return self.options["num_classes"]

    def checked(self) -> "Bundle":
        """Return this bundle, after checking that it has every tensor of the network and no other."""
        load_state(self._network(), self.state, LoadReport(source=self.source), device="meta")
        return self

    def with_labels(self, labels: tuple[str, ...] | None) -> "Bundle":
        """Return this bundle with class names, one for each class; None leaves those that it has."""
        try:
            labels = self.labels if labels is None else checked_labels(labels, "labels")
        except InputError as error:  # of an argument here, not of a file
            raise ArgumentError(str(error)) from None
        if labels is not None and len(labels) != self.num_classes:
            found = f"{len(labels)} class names for {self.num_classes} classes of {self.source}"
            raise ArgumentError(f"{found}: expected one for each, in the order of the logits")
        return dataclasses.replace(self, labels=labels)

    def model(self) -> EfficientNet:
        """Return the network with the weights, in eval mode.

        Raises:
            WeightsError: If they do not fit.
        """
        model = self._network()
        model.load_report = load_state(model, self.state, LoadReport(source=self.source))
        model.pretrained_cfg = model.default_cfg = self.pretrained_cfg()
        model.origin = origin_of(model, StateFile(state=self.state, source=self.source))
        return model.eval()

    def _network(self) -> EfficientNet:
        options: Any = self.options
        return EfficientNet(self.arch, **options, device="meta")

    def pretrained_cfg(self) -> dict[str, Any]:
        """Return timm's dict of fields for these weights. It must be known how images are prepared."""
        if self.images is None:
            advice = "say it with --mean and --std (0..1, RGB) or --like CHECKPOINT; in Python, with images=Images(...)"
            raise WeightsError(f"{self.source}: how its images are to be prepared is not in the file: {advice}")
        how = image_fields(self.images, self.options["in_chans"])
        labels = {"label_names": list(self.labels)} if self.labels else {}
        return {**self.record, **how, **labels, "num_classes": self.num_classes}

    def write(self, folder: Path) -> None:
        """Write ``model.safetensors`` and ``config.json`` into a folder."""
        config = config_json.config_text(self.arch, self.options, self.pretrained_cfg(), self.labels)
        statefile.write_safetensors(folder / locate.WEIGHT_FILE, self.state)
        (folder / config_json.CONFIG_FILE).write_text(config, encoding="utf-8")


def of_model(model: EfficientNet) -> Bundle:
    """Return a model's weights as they are now, with what is known of them."""
    if not isinstance(model, EfficientNet):
        raise ArgumentError(f"{type(model).__name__}: expected an EfficientNet of this package")
    if any(tensor.is_meta for tensor in model.state_dict().values()):
        raise ArgumentError("the model is on the meta device: it has no weights to save")
    pool = model.global_pool.pool_type
    options = ModelOptions(num_classes=model.num_classes, in_chans=model.in_chans, global_pool=pool)
    if model.output_stride:
        options["output_stride"] = model.output_stride
    known, variant = known_of(model), config_json.variant_of(model.arch)
    return Bundle(
        source="the given model",
        variant=variant.name if variant else config_json.CUSTOM,
        arch=model.arch,
        options=options,
        state={key: tensor.detach().cpu() for key, tensor in model.state_dict().items()},
        images=known.images,
        labels=known.labels,
        record=known.claims,
    )
