"""Convert weights from any layout to any other, with proof, into a folder that is written whole or not at all."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo import atomic_io
from effnet_zoo.arch.families import Padding
from effnet_zoo.checkpoints import config_json
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.errors import ArgumentError, UnknownNameError, WeightsError, did_you_mean, quoted
from effnet_zoo.layouts import LAYOUTS, OURS, Layout
from effnet_zoo.network.options import check_path
from effnet_zoo.transfer.opening import read_bundle
from effnet_zoo.transfer.proof import description_of, prove
from effnet_zoo.transfer.writing import write_folder
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import check_licence
from effnet_zoo.zoo.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """How images are prepared, as far as the user says it; None for what the source says.

    Attributes:
        like: A checkpoint of the ledger whose preprocessing is taken.
        mean: Of each channel scaled to 0..1, RGB.
        std: Of each channel scaled to 0..1, RGB.
        size: Side in pixels.
        interpolation: ``bicubic``, ``bilinear`` or ``nearest``.
        crop_pct: Input size over the size the image is resized to before cropping.
    """

    like: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    interpolation: str | None = None
    crop_pct: float | None = None

    def of(self, bundle: Bundle) -> Preprocessing | None:
        """Return the preprocessing of a bundle, changed as the user says; None if nobody says it.

        Raises:
            UnknownNameError: If `like` is no checkpoint.
            ArgumentError: If a value cannot be used, or only one of mean and std is given and needed.
        """
        base = catalogue.find(self.like)[1].preprocessing if self.like else bundle.images
        if base is None:
            if self.mean is None and self.std is None:
                return None
            if self.mean is None or self.std is None:
                raise ArgumentError("mean and std: expected both, or --like CHECKPOINT")
            base = Preprocessing(
                size=(bundle.arch.image_size,) * 2,
                crop_pct=0.875,
                crop_mode="center",
                interpolation="bicubic",
                mean=self.mean,
                std=self.std,
            )
        given: dict[str, Any] = {
            "mean": self.mean,
            "std": self.std,
            "size": None if self.size is None else (self.size, self.size),
            "interpolation": self.interpolation or None,
            "crop_pct": self.crop_pct,
        }
        how = dataclasses.replace(base, **{field: value for field, value in given.items() if value is not None})
        for name, values in (("mean", how.mean), ("std", how.std)):
            if len(values) not in (3, bundle.options["in_chans"]):
                raise ArgumentError(
                    f"{name}: expected a number for each of {bundle.options['in_chans']} channels, got {len(values)}"
                )
        return how


def convert(
    place: str,
    out: Path,
    *,
    to: str = "effnet_zoo",
    variant: str | None = None,
    ema: bool = True,
    images: Images | None = None,
    padding: Padding | None = None,
    bn_eps: float | None = None,
    labels: tuple[str, ...] | None = None,
    golden: Path | None = None,
    licence: str | None = None,
    backbone_only: bool = False,
) -> Bundle:
    """Convert weights to a layout, and write them with what belongs to them to a folder.

    The logits are compared with those of the source's implementation and of the target's, each where it is installed.

    Args:
        place: As in `effnet_zoo.transfer.opening.open_package`.
        out: The folder; it must not exist yet, or be empty, and is not created if anything fails.
        to: The layout; by default this package's own, which is timm's.
        variant: The architecture, if it is known better than the file tells.
        ema: Take moving averages where a file has both.
        images: How images are prepared, where the file does not say it or is wrong.
        padding: The network's padding, instead of the layout's convention.
        bn_eps: The network's batch norm epsilon, instead of the layout's convention.
        labels: Class names in the order of the logits.
        golden: A safetensors file with an ``image`` and its ``logits``, to compare with.
        licence: The licence of the weights.
        backbone_only: Leave the head out, whatever it is.

    Returns:
        The bundle that was written, with its proof.

    Raises:
        UnknownNameError: If there is no such layout, variant or source.
        WeightsError: If the source is not an EfficientNet's weights, its logits change, or nobody knows how images are
            prepared.
        ArgumentError: If an option does not fit.
        InputError: If `out` is in the way.
    """
    layouts = layouts_named(to)
    check_path("out", out)
    with atomic_io.folder_written_whole(out) as folder:
        source = read_bundle(place, variant=variant, ema=ema, backbone_only=backbone_only)
        bundle = with_overrides(source, images, padding, bn_eps, labels, licence)
        layout = OURS if OURS in layouts else fitting_layout(bundle, to, layouts)
        proof = prove(bundle, bundle.model(), (bundle.layout, layout.name), golden)
        bundle = dataclasses.replace(bundle, proof=proof, target=layout.name)
        write_folder(bundle, folder, layout, description_of(bundle))
    return bundle


def layouts_named(name: str) -> list[Layout]:
    """Return the layouts that users know by a name: several where a library has generations of keys.

    Raises:
        UnknownNameError: If there is no such layout, suggesting near names.
    """
    found = [layout for layout in LAYOUTS.values() if name in (layout.name, *layout.aliases)]
    if not found:
        hint = did_you_mean(name, LAYOUTS) if isinstance(name, str) else ""
        raise UnknownNameError(f"unknown layout {quoted(name)}: expected one of {', '.join(LAYOUTS)}.{hint}")
    return found


def with_overrides(
    bundle: Bundle,
    images: Images | None = None,
    padding: Padding | None = None,
    bn_eps: float | None = None,
    labels: tuple[str, ...] | None = None,
    licence: str | None = None,
) -> Bundle:
    """Return a bundle with what the user knows better.

    Raises:
        ArgumentError: If an option does not fit.
        WeightsError: If nobody said how images are prepared.
    """
    if not isinstance(images, Images | None):
        raise ArgumentError(f"images={quoted(images)}: expected Images(...)")
    arch = dataclasses.replace(
        bundle.arch,
        padding=padding or bundle.arch.padding,
        bn_eps=bundle.arch.bn_eps if bn_eps is None else bn_eps,
    )
    if licence is not None:
        check_licence(licence)
    record = {**bundle.record, **({"license": licence} if licence else {})}
    bundle = dataclasses.replace(bundle, arch=arch, record=record, images=(images or Images()).of(bundle))
    bundle.pretrained_cfg()
    return bundle.with_labels(labels)


def fitting_layout(bundle: Bundle, to: str, layouts: Sequence[Layout]) -> Layout:
    """Return the layout that has a bundle's network.

    Raises:
        WeightsError: If none has it, or its library would compute other logits.
    """
    arch = bundle.arch
    # Not by name: a network that is no variant of ours has no name of its own once it is in our layout.
    same = [
        (layout, name, theirs)
        for layout in layouts
        for name, theirs in layout.archs.items()
        if config_json.same_tensors(theirs, arch)
    ]
    if not same:
        names = ", ".join(name for layout in layouts for name in layout.archs)
        raise WeightsError(f"{bundle.source} is {bundle.variant}, which {to} does not have: it has {names}")
    ((layout, name, theirs),) = same
    for numeric in ("padding", "bn_eps", "activation"):
        if numeric not in layout.in_config and getattr(theirs, numeric) != getattr(arch, numeric):
            raise WeightsError(
                f"{bundle.source} needs {numeric} {getattr(arch, numeric)}, and {layout.name}'s {name} has "
                f"{getattr(theirs, numeric)}: its logits would change"
            )
    pooling, output_stride = bundle.options.get("global_pool", "avg"), bundle.options.get("output_stride")
    if missing := layout.missing_feature(pooling, output_stride):
        raise WeightsError(f"{bundle.source} has {missing}, which {layout.name} does not have: its logits would change")
    return layout
