"""From any layout to any other, with proof, into a folder that is written whole or not at all."""

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_zoo import atomic_io
from effnet_zoo.arch.families import Padding
from effnet_zoo.checkpoints import config_json, keras_file
from effnet_zoo.checkpoints.bundle import Package, Proof
from effnet_zoo.errors import ArgumentError, UnknownNameError, WeightsError, did_you_mean, quoted
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2
from effnet_zoo.layouts.layout import LAYOUTS
from effnet_zoo.network.options import check_path
from effnet_zoo.transfer.opening import PROCESSOR, RESAMPLE, open_package
from effnet_zoo.transfer.proof import prove, prove_by_golden, transformers_config
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.ledger import check_licence
from effnet_zoo.zoo.preprocessing import Preprocessing

ALIASES = {"timm": "effnet_zoo", "geffnet": "effnet_zoo"}
"""Libraries whose keys are this package's own."""

SUMMARY = "conversion.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Images:
    """How images are to be prepared, where the user says so; None for what the source says.

    Attributes:
        like: A checkpoint of the ledger whose preprocessing it is.
        mean: Of each channel scaled to 0..1, RGB.
        std: Likewise.
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

    def of(self, package: Package) -> Preprocessing | None:
        """The preprocessing of a package, with what the user says.

        Raises:
            UnknownNameError: If `like` is no checkpoint.
            ArgumentError: If an interpolation is unknown, or only one of mean and std is given.
        """
        base = catalogue.find(self.like)[1].preprocessing if self.like else package.images
        if base is None:
            if self.mean is None and self.std is None:
                return None
            if self.mean is None or self.std is None:
                raise ArgumentError("mean and std: expected both, or --like CHECKPOINT")
            side = package.arch.image_size
            base = Preprocessing(
                size=(side, side),
                crop_pct=0.875,
                crop_mode="center",
                interpolation="bicubic",
                mean=self.mean,
                std=self.std,
            )
        how = dataclasses.replace(
            base,
            mean=base.mean if self.mean is None else self.mean,
            std=base.std if self.std is None else self.std,
            size=base.size if self.size is None else (self.size, self.size),
            interpolation=self.interpolation or base.interpolation,
            crop_pct=base.crop_pct if self.crop_pct is None else self.crop_pct,
        )
        for name, values in (("mean", how.mean), ("std", how.std)):
            if len(values) not in (3, package.options["in_chans"]):
                raise ArgumentError(
                    f"{name}: expected a number for each of {package.options['in_chans']} channels, got {len(values)}"
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
) -> Package:
    """Convert weights to a layout, and write them with what belongs to them to a folder.

    The logits are compared with those of the source's implementation and of the target's, each where it is installed.

    Args:
        place: See `effnet_zoo.transfer.opening.open_package`.
        out: The folder; it must not exist yet, or be empty, and is not created if anything fails.
        to: The layout; by default this package's own, which is timm's.
        variant: The architecture, if it is known better than the file tells.
        ema: Take moving averages where a file has both.
        images: How images are prepared, where that is not in the file or not right.
        padding: Instead of the layout's convention.
        bn_eps: Likewise.
        labels: Class names in the order of the logits.
        golden: A safetensors file with an ``image`` and its ``logits``, to compare with.
        licence: Of the weights.
        backbone_only: Leave the head out, whatever it is.

    Returns:
        The package that was written, with its proof.

    Raises:
        UnknownNameError: If there is no such layout, variant or source.
        WeightsError: If the source is not an EfficientNet's weights, its logits change, or nobody knows how images are
            prepared.
        ArgumentError: If an option does not fit.
        InputError: If `out` is in the way.
    """
    target = layout_of(to)
    check_path("out", out)
    with atomic_io.folder_written_whole(out) as folder:
        source = open_package(place, variant=variant, ema=ema, backbone_only=backbone_only)
        package = told(source, images, padding, bn_eps, labels, licence)
        if target == KERAS_V1.name and any(stage.fused for stage in package.arch.stages):
            target = KERAS_V2.name  # one library, two generations of names
        if target != "effnet_zoo":
            _refuse_unless_expressed(package, target)
        package = dataclasses.replace(package, proof=_proof(package, target, golden), target=target)
        WRITERS.get(target, _write_keys)(package, folder, target)
    return package


def layout_of(name: str) -> str:
    """A layout by its name or another library's with the same keys.

    Raises:
        UnknownNameError: Suggesting near names.
    """
    layout = ALIASES.get(name, name) if isinstance(name, str) else ""
    if layout not in LAYOUTS:
        raise UnknownNameError(
            f"unknown layout {quoted(name)}: expected one of {', '.join(LAYOUTS)}.{did_you_mean(name, LAYOUTS)}"
        )
    return layout


def told(
    package: Package,
    images: Images | None = None,
    padding: Padding | None = None,
    bn_eps: float | None = None,
    labels: tuple[str, ...] | None = None,
    licence: str | None = None,
) -> Package:
    """A package with what the user knows better.

    Raises:
        ArgumentError: If an option does not fit.
        WeightsError: If nobody said how images are prepared.
    """
    if not isinstance(images, Images | None):
        raise ArgumentError(f"images={quoted(images)}: expected Images(...)")
    arch = dataclasses.replace(
        package.arch,
        padding=padding or package.arch.padding,
        bn_eps=package.arch.bn_eps if bn_eps is None else bn_eps,
    )
    if licence is not None:
        check_licence(licence)
    record = {**package.record, **({"license": licence} if licence else {})}
    package = dataclasses.replace(package, arch=arch, record=record, images=(images or Images()).of(package))
    package.pretrained_cfg()
    return package.with_labels(labels)


def _refuse_unless_expressed(package: Package, target: str) -> None:
    layout, ours = LAYOUTS[target], package.arch
    # Not by name: a network that is none of our variants has none of its own once it is in our layout.
    same = [(name, arch) for name, arch in layout.archs().items() if config_json.same_tensors(arch, ours)]
    if not same:
        raise WeightsError(
            f"{package.source} is {package.variant}, which {target} does not have: it has {', '.join(layout.archs())}"
        )
    ((name, theirs),) = same
    for numeric in ("padding", "bn_eps", "activation"):
        if numeric not in layout.told and getattr(theirs, numeric) != getattr(ours, numeric):
            raise WeightsError(
                f"{package.source} needs {numeric} {getattr(ours, numeric)}, and {target}'s {name} has "
                f"{getattr(theirs, numeric)}: its logits would change"
            )
    pooling, output_stride = package.options.get("global_pool", "avg"), package.options.get("output_stride")
    if output_stride or pooling not in layout.pools:
        raise WeightsError(
            f"{package.source} has {f'output_stride {output_stride}' if output_stride else f'{pooling} pooling'}, "
            f"which {target} does not have: its logits would change"
        )


def _proof(package: Package, target: str, golden: Path | None) -> Proof | None:
    """The weaker of the proofs that can be had."""
    proofs = [prove(package, layout) for layout in dict.fromkeys((package.layout, target))]
    if golden:
        proofs.append(prove_by_golden(package, golden))
    found = [proof for proof in proofs if proof]
    if not found:
        return None
    return Proof(
        against=" and ".join(dict.fromkeys(proof.against for proof in found)),
        error=max(proof.error for proof in found),
        size=found[0].size,
    )


def _write_own(package: Package, folder: Path, _: str) -> None:
    noted = with_proof_noted(package)
    noted.write_weights(folder)
    (folder / config_json.FILENAME).write_text(noted.config_json(), encoding="utf-8")


def with_proof_noted(package: Package) -> Package:
    """The same with its proof among the notes of its record, which ``config.json`` keeps."""
    notes = [*(package.record.get("notes") or ()), *([str(package.proof)] if package.proof else [])]
    return dataclasses.replace(package, record={**package.record, "notes": list(dict.fromkeys(notes))})


def _write_keys(package: Package, folder: Path, target: str) -> None:
    package.write_weights(folder, LAYOUTS[target].table.to_theirs(package.state, package.arch))
    (folder / SUMMARY).write_text(_as_json(summary(package)), encoding="utf-8")


def _write_transformers(package: Package, folder: Path, target: str) -> None:
    _write_keys(package, folder, target)
    model, how = config_json.variant_of(package.arch), package.images
    assert model is not None
    assert how is not None
    content = {
        "architectures": ["EfficientNetForImageClassification"],
        "model_type": "efficientnet",
        **transformers_config(package, model),
    }
    height, width = how.size
    processor = {
        **_resized(how, package.source),
        "do_resize": True,
        "resample": {name: number for number, name in RESAMPLE.items()}[how.interpolation],
        "crop_size": {"height": height, "width": width},
        "rescale_factor": 1 / 255,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": list(how.mean),
        "image_std": list(how.std),
    }
    (folder / config_json.FILENAME).write_text(_as_json(content), encoding="utf-8")
    (folder / PROCESSOR).write_text(_as_json(processor), encoding="utf-8")


def _resized(how: Preprocessing, source: str) -> dict[str, Any]:
    """The image processor that resizes so: transformers' own of EfficientNet never keeps the aspect."""
    height, width = (int(side / how.crop_pct) for side in how.size)
    if how.crop_mode == "squash":
        return {
            "image_processor_type": "EfficientNetImageProcessor",
            "size": {"height": height, "width": width},
            "do_center_crop": how.crop_pct != 1.0,
            "rescale_offset": False,
            "include_top": False,
        }
    if height != width:
        raise WeightsError(f"{source}: transformers has no image processor that crops {how.size} out of the centre")
    return {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": height}, "do_center_crop": True}


def _write_keras(package: Package, folder: Path, target: str) -> None:
    assert package.images is not None
    normalisation = (package.images.mean, package.images.std) if target == KERAS_V1.name else None
    keras_file.write(folder / "model.weights.h5", package.state, package.arch, normalisation=normalisation)
    (folder / SUMMARY).write_text(_as_json(summary(package)), encoding="utf-8")


Writer = Callable[[Package, Path, str], None]
WRITERS: Mapping[str, Writer] = {
    "effnet_zoo": _write_own,
    "transformers": _write_transformers,
    KERAS_V1.name: _write_keras,
    KERAS_V2.name: _write_keras,
}


def summary(package: Package) -> dict[str, Any]:
    """What a package is, in JSON's types, and what layout it was written in."""
    to = package.target
    return {
        "source": package.source,
        "layout": package.layout,
        **({"to": to, "loads_with": LAYOUTS[to].loads_with} if to else {}),
        "variant": package.variant,
        "num_classes": package.num_classes,
        "in_chans": package.options["in_chans"],
        "seen": list(package.seen),
        "assumed": list(package.assumed),
        "dropped": dict(package.dropped),
        "preprocessing": dataclasses.asdict(package.images) if package.images else None,
        "labels": list(package.labels) if package.labels else None,
        "proof": dataclasses.asdict(package.proof) if package.proof else None,
    }


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"
