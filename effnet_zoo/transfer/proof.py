"""Prove that converted weights compute what they did before: another library's network runs beside ours.

Both compute in float64 on the same random image, so that the difference is rounding (below 1e-10) or a mistake.
"""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from effnet_zoo.checkpoints.bundle import Bundle, Proof
from effnet_zoo.checkpoints.keras.writing import write_keras_file
from effnet_zoo.checkpoints.statefile import read_weights
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts import LAYOUTS, Layout
from effnet_zoo.layouts.layout import FLOAT32_TOLERANCE, SIZE, run_in_float64
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.transfer.opening import description_of


def prove(bundle: Bundle, model: EfficientNet, layouts: Iterable[str], golden: Path | None = None) -> Proof | None:
    """Compare a model's logits with those of the layouts' libraries that are installed, and with a golden output.

    Return the proof with the largest error, or None if there was nothing to compare with. The model has the bundle's
    weights and is left in float64. The golden file has ``image`` (n, channels, height, width), normalised, and its
    ``logits``.
    """
    proofs = [
        proof for layout in dict.fromkeys(layouts) if (proof := _by_implementation(bundle, model, LAYOUTS[layout]))
    ]
    if golden:
        proofs.append(_by_golden(bundle, model, golden))
    if not proofs:
        return None
    return Proof(
        against=" and ".join(dict.fromkeys(proof.against for proof in proofs)),
        error=max(proof.error for proof in proofs),
        size=proofs[0].size,
    )


def random_image(in_chans: int, size: tuple[int, int] = SIZE) -> Tensor:
    """Return one image (1, channels, height, width) of standard normal float64 values, always the same ones."""
    return torch.randn((1, in_chans, *size), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _by_implementation(bundle: Bundle, model: EfficientNet, layout: Layout) -> Proof | None:
    network = description_of(bundle)
    if network is None or layout.missing_feature(network.global_pool, network.output_stride):
        return None
    if (reference := layout.reference(network)) is None:
        return None
    image = random_image(network.in_chans, reference.size)
    if reference.module is not None:
        reference.module.load_state_dict(layout.table.to_theirs(bundle.state, bundle.arch), strict=True)
        theirs = run_in_float64(reference.module, image)
    else:
        assert reference.logits_of_file is not None
        with TemporaryDirectory() as folder:
            path = Path(folder, layout.filename)
            write_keras_file(path, bundle.state, bundle.arch)
            theirs = reference.logits_of_file(path, image)
    return compare(bundle, model, theirs, image, str(reference), reference.tolerance)


def _by_golden(bundle: Bundle, model: EfficientNet, path: Path) -> Proof:
    try:
        golden = read_weights(path).state
        image, logits = golden["image"].double(), golden["logits"]
    except (WeightsError, KeyError) as error:
        raise WeightsError(f"{path}: expected a safetensors file with 'image' and 'logits': {error}") from None
    in_chans, outputs = bundle.options["in_chans"], bundle.num_classes or bundle.arch.head_filters
    if image.dim() != 4 or image.shape[1] != in_chans or logits.shape != (len(image), outputs):
        raise WeightsError(
            f"{path}: image is {tuple(image.shape)} and logits {tuple(logits.shape)}: expected (n, {in_chans}, height, "
            f"width) and (n, {outputs})"
        )
    return compare(bundle, model, logits, image, path.name, FLOAT32_TOLERANCE)


def compare(
    bundle: Bundle, model: EfficientNet, theirs: Tensor, image: Tensor, against: str, tolerance: float
) -> Proof:
    """Return the proof that a model computes the same logits as another. Raise WeightsError if it does not."""
    error = relative_error(run_in_float64(model, image), theirs)
    if not error <= tolerance:
        raise WeightsError(
            f"{bundle.source}: the logits differ from those of {against} by a relative {error:.1e}: expected at most "
            f"{tolerance:.0e}"
        )
    return Proof(against=against, error=error, size=(image.shape[2], image.shape[3]))
