"""Convert weights from any layout to any other, with proof, into a folder that is written whole or not at all."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo import atomic_io
from effnet_zoo.arch.families import Padding
from effnet_zoo.checkpoints import config_json, statefile
from effnet_zoo.checkpoints.bundle import Bundle
from effnet_zoo.checkpoints.keras.writing import write_keras_file
from effnet_zoo.errors import ArgumentError, WeightsError, quoted
from effnet_zoo.layouts import LAYOUTS, OURS, Layout
from effnet_zoo.network.options import check_path, chosen
from effnet_zoo.transfer.opening import description_of, read_bundle
from effnet_zoo.transfer.proof import prove
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import check_licence
from effnet_zoo.zoo.preprocessing import Preprocessing

SUMMARY = "conversion.json"
"""The file with `summary` beside weights in another library's layout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """The preprocessing of images, as far as the user states it. None leaves what the source states.

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
        """Return the preprocessing of a bundle with the changes of the user. Return None if neither states it."""
        given: dict[str, Any] = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        if self.size is not None:
            given["size"] = (self.size, self.size)
        like = given.pop("like", None)
        how = catalogue.find(like)[1].preprocessing if like else bundle.images
        if how:
            how = dataclasses.replace(how, **given)
        elif {"mean", "std"} <= given.keys():
            side = bundle.arch.image_size
            assumed = {"size": (side, side), "crop_pct": 0.875, "crop_mode": "center", "interpolation": "bicubic"}
            how = Preprocessing(**{**assumed, **given})
        elif given.keys() & {"mean", "std"}:
            raise ArgumentError("mean and std: expected both, or --like CHECKPOINT")
        else:
            return None
        in_chans = bundle.options["in_chans"]
        for name, values in (("mean", how.mean), ("std", how.std)):
            if len(values) not in (3, in_chans):
                raise ArgumentError(f"{name}: expected a number for each of {in_chans} channels, got {len(values)}")
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
        place: As in `effnet_zoo.open_package`.
        out: The folder; it must not exist yet, or be empty, and is not created if anything fails.
        to: The layout; by default this package's own, which is timm's.
        variant: The architecture, if the user knows it better than the file shows it.
        ema: Take moving averages where a file has both.
        images: How images are prepared, where the file does not state it or is wrong.
        padding: The network's padding, instead of the layout's convention.
        bn_eps: The network's batch norm epsilon, instead of the layout's convention.
        labels: Class names in the order of the logits.
        golden: A safetensors file with an ``image`` and its ``logits``, to compare with.
        licence: The licence of the weights.
        backbone_only: Leave the head out, of any kind.

    Returns:
        The bundle that was written, with its proof.

    Raises:
        UnknownNameError: If there is no such layout, variant or source.
        WeightsError: If the source is not an EfficientNet's weights, its logits change, or its preprocessing is not
            known.
        ArgumentError: If an option does not fit.
        InputError: If `out` is in the way.
    """
    check_path("out", out)
    # A library with generations of keys has several layouts of one name.
    layouts = [layout for layout in LAYOUTS.values() if to in (layout.name, *layout.aliases)]
    if not layouts:
        chosen(to, LAYOUTS, "layout")  # which raises, and suggests near names
    with atomic_io.folder_written_whole(out) as folder:
        source = read_bundle(place, variant=variant, ema=ema, backbone_only=backbone_only)
        bundle = with_overrides(source, images, padding, bn_eps, labels, licence)
        layout = OURS if OURS in layouts else fitting_layout(bundle, to, layouts)
        proof = prove(bundle, bundle.model(), (bundle.layout, layout.name), golden)
        record = bundle.record
        if proof:
            notes = dict.fromkeys([*(record.get("notes") or ()), str(proof)])
            record = {**record, "notes": list(notes)}
        bundle = dataclasses.replace(bundle, proof=proof, record=record, target=layout.name)
        write_folder(bundle, folder, layout)
    return bundle


def with_overrides(
    bundle: Bundle,
    images: Images | None = None,
    padding: Padding | None = None,
    bn_eps: float | None = None,
    labels: tuple[str, ...] | None = None,
    licence: str | None = None,
) -> Bundle:
    """Return a bundle with what the user knows better. Raise WeightsError if its preprocessing is still not known."""
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
    """Return the layout that has a bundle's network. Raise WeightsError if its library would compute other logits."""
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


def write_folder(bundle: Bundle, folder: Path, layout: Layout = OURS) -> None:
    """Write a bundle's weights in a layout, and what its library keeps beside them, into a folder."""
    assert bundle.images is not None
    if layout is OURS:
        bundle.write(folder)
        return
    path = folder / layout.filename
    if path.suffix == ".h5":
        write_keras_file(path, bundle.state, bundle.arch, (bundle.images.mean, bundle.images.std))
    else:
        statefile.write_safetensors(path, layout.table.to_theirs(bundle.state, bundle.arch))
    documents: dict[str, Any] = {SUMMARY: summary(bundle)}
    if layout.config_files:
        network = description_of(bundle)
        assert network is not None
        documents |= layout.config_files.write(network, bundle.labels, bundle.images)
    for name, content in documents.items():
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def summary(bundle: Bundle) -> dict[str, Any]:
    """Return in JSON's types what a bundle is, and in which layout it was written."""
    to = bundle.target
    return {
        "source": bundle.source,
        "layout": bundle.layout,
        **({"to": to, "loads_with": LAYOUTS[to].loads_with} if to else {}),
        "variant": bundle.variant,
        "num_classes": bundle.num_classes,
        "in_chans": bundle.options["in_chans"],
        "seen": list(bundle.seen),
        "assumed": list(bundle.assumed),
        "dropped": dict(bundle.dropped),
        "preprocessing": dataclasses.asdict(bundle.images) if bundle.images else None,
        "labels": list(bundle.labels) if bundle.labels else None,
        "proof": dataclasses.asdict(bundle.proof) if bundle.proof else None,
    }
