"""Read the network in a file of Keras, and understand the layers around it from the configuration."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from effnet_zoo.checkpoints.keras.hdf5 import Dataset, Declaration, datasets_of, opened, tensors_of
from effnet_zoo.checkpoints.keras.layers import OF_NETWORK, Variables, declared_layers, variables_by_layer
from effnet_zoo.checkpoints.statefile import StateFile
from effnet_zoo.errors import EffnetZooError, WeightsError, first_line

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel of an image scaled to 0..1."""

NOT_BACKBONE = "not of the backbone"
PREPARES = "part of how images are prepared"
NOT_OF_LAYERS = {
    r"optimizer(_weights)?/.*": "state of the optimizer",
    r"(metrics|_?compile_metrics|_?loss_tracker)/.*": "a metric of the training",
    r".*/seed_generator(/.*|_state)": "state of a random generator",
}
"""Patterns of data sets that belong to no layer or are useless at inference, and what they are."""

AVERAGES = "; its moving averages (use_ema) are part of it, which Keras copies into the layers at the end of fit"

HEAD = re.compile("GlobalAveragePooling2D (Flatten )?Dense( Activation| Softmax)?")
"""Classes of the layers that may follow the network, without dropout."""

DROPOUT = ("Dropout", "FixedDropout")
NO_SCALE = re.compile(r"InputLayer|Resizing|CenterCrop|Random(?!Crop$).*")
"""Classes of layers in front of the network that leave the scale of pixels alone: of the random ones all but one."""

EPSILON = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasFile(StateFile):
    """The tensors of a file by ``layer/variable``, in Keras' order of axes. The classifier is called ``predictions``.

    Attributes:
        normalisation: What the layers in front of the network do to pixels 0..255, as mean and standard deviation of
            each channel for pixels 0..1. None if the file does not state it, or a layer does something else.
        input_size: Height and width that the network was built for. None if the file does not state it, or any will do.
    """

    normalisation: Normalisation | None
    input_size: tuple[int, int] | None


def read_keras_file(path: Path, *, backbone_only: bool = False) -> KerasFile:
    """Read the one EfficientNet of keras.applications in a ``.keras``, ``.h5`` or ``.weights.h5`` file.

    Its head must be average pooling and one dense layer, if it is not left out.
    """
    try:
        with opened(path) as (hdf5, model):
            return _read(str(path), hdf5, model, backbone_only=backbone_only)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error.__cause__
    except EffnetZooError:
        raise
    except Exception as error:  # h5py, zipfile and json raise many errors at a damaged file
        raise WeightsError(
            f"{path} is not a whole file of Keras: {first_line(error)}. Expected what model.save or model.save_weights "
            "wrote: save or download it again"
        ) from error


def _read(source: str, hdf5: Any, model: Declaration | None, *, backbone_only: bool) -> KerasFile:
    layers = list(declared_layers(model)) if model and "layers" in model.config else None
    datasets = dict(datasets_of(hdf5))
    dropped = _not_of_layers(datasets, (model and model.compile_config) or {})
    kept = {path: dataset for path, dataset in datasets.items() if path not in dropped}
    variables = variables_by_layer(hdf5, kept, layers)
    network = {name: found for name, found in variables.items() if OF_NETWORK.fullmatch(name)}
    if "stem_conv" not in network:
        some = ", ".join(list(variables)[:3]) or "none"
        raise WeightsError(
            f"no layer stem_conv among its layers ({some}, ...): expected an EfficientNet of keras.applications, whose "
            "layers have kept their names"
        )
    normalizations = {name: found for name, found in variables.items() if {"mean", "variance"} <= found.keys()}
    rest = {name: found for name, found in variables.items() if name not in network | normalizations}
    if backbone_only:
        dropped.update({f"{name}/{variable}": NOT_BACKBONE for name in sorted(rest) for variable in rest[name]})
        rest = {}
    dense = [name for name in rest if rest[name].keys() == {"kernel", "bias"} and rest[name]["kernel"].ndim == 2]
    if len(rest) > 1 or len(dense) < len(rest):
        names = ", ".join(sorted(rest.keys() - dense or dense))
        raise WeightsError(
            f"layers beside the network that ours has no place for ({names}): expected one dense layer, the "
            "classifier, or none; convert --backbone-only leaves them out"
        )
    if dense:
        network["predictions"] = rest[dense[0]]
    dropped.update({f"{name}/{variable}": PREPARES for name, found in normalizations.items() for variable in found})
    state = tensors_of({f"{name}/{key}": dataset for name, found in network.items() for key, dataset in found.items()})
    before, after = ([], []) if layers is None else _around_network(layers)
    if dense and layers is not None:
        _check_head(after)
    return KerasFile(
        source=source,
        state=state,
        normalisation=_normalisation_of(before, normalizations, channels=state["stem_conv/kernel"].shape[-2]),
        dropped=dropped,
        input_size=_input_size(before, layers or ()),
    )


def _not_of_layers(paths: Mapping[str, Dataset], training: Mapping[str, Any]) -> dict[str, str]:
    optimizer = training.get("optimizer_config") or training.get("optimizer")
    averaged = isinstance(optimizer, dict) and optimizer.get("config", {}).get("use_ema")
    return {
        path: reason + (AVERAGES if averaged and path.startswith("optimizer") else "")
        for path in paths
        for pattern, reason in NOT_OF_LAYERS.items()
        if re.fullmatch(pattern, path)
    }


def _around_network(layers: Sequence[Declaration]) -> tuple[Sequence[Declaration], Sequence[Declaration]]:
    """Return the layers in front of the network and behind it. Refuse one in between that is not as Keras builds it."""
    inside = [index for index, layer in enumerate(layers) if OF_NETWORK.fullmatch(layer.name)]
    if not inside:
        raise WeightsError("its configuration names other layers than its weights do: save the model again")
    for layer in layers[inside[0] : inside[-1] + 1]:
        if not OF_NETWORK.fullmatch(layer.name):
            raise WeightsError(f"layer {_shown(layer)} is inside the network: expected an unchanged one")
        if not np.isclose(epsilon := layer.config.get("epsilon", EPSILON), EPSILON):
            raise WeightsError(f"layer {layer.name} has epsilon {epsilon}: expected keras.applications' {EPSILON}")
        expected: tuple[str, ...] = ("linear",)
        if layer.name.endswith(("activation", "se_reduce")):
            expected = ("swish", "silu")
        elif layer.name.endswith("se_expand"):
            expected = ("sigmoid",)
        if "activation" in layer.config and (given := _activation(layer)) not in expected:
            raise WeightsError(f"layer {layer.name} has activation {given}: expected {expected[0]}")
    return layers[: inside[0]], layers[inside[-1] + 1 :]


def _shown(layer: Declaration) -> str:
    return f"{layer.name} ({layer.class_name})"


def _activation(layer: Declaration) -> str:
    """Return the name of a layer's activation, which Keras writes as a name or as an object."""
    value = layer.config.get("activation")
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return "linear" if value is None else str(value).lower()


def _check_head(head: Sequence[Declaration]) -> None:
    """Check that the output of the one dense layer are the logits."""
    layers = [layer for layer in head if layer.class_name not in DROPOUT]
    if not HEAD.fullmatch(" ".join(layer.class_name for layer in layers)):
        raise WeightsError(
            f"its head is {', '.join(map(_shown, head))}: expected GlobalAveragePooling2D, dropout or none, and one "
            "Dense; convert --backbone-only leaves it out"
        )
    dense, last = next(layer for layer in layers if layer.class_name == "Dense"), layers[-1]
    if last is not dense and _activation(dense) != "linear":
        raise WeightsError(f"its head has two activations, in {dense.name} and in {last.name}: expected one")


def _normalisation_of(front: Sequence[Declaration], variables: Variables, channels: int) -> Normalisation | None:
    """Return the layers in front of the network as one normalisation, or None if one of them does something else.

    V1 with ImageNet's weights has three: 1/255, a Normalization whose variance is the standard deviation, and a second
    Rescaling by 1/sqrt(standard deviation) (keras/src/applications/efficientnet.py; tensorflow issue 49930).
    """
    scale, offset = np.full(channels, 255.0), np.zeros(channels)
    steps = [layer for layer in front if not NO_SCALE.fullmatch(layer.class_name)]
    for layer in steps:
        affine = _affine(layer, variables.get(layer.name, {}), channels)
        if affine is None:
            return None
        scale, offset = scale * affine[0], offset * affine[0] + affine[1]
    # Without any of these layers the images were prepared outside, in a way that the file does not show.
    if not steps or not np.isfinite([scale, offset]).all() or not scale.all():
        return None
    return tuple((0 - offset / scale).tolist()), tuple((1 / scale).tolist())


def _affine(
    layer: Declaration, variables: Mapping[str, Dataset], channels: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and offset that a layer applies to each channel, or None if it does something else."""
    names = {"Rescaling": ("scale", "offset"), "Normalization": ("mean", "variance")}.get(layer.class_name)
    if names is None or layer.config.get("invert"):
        return None
    given = [layer.config.get(name) if layer.config.get(name) is not None else variables.get(name) for name in names]
    first, second = (_per_channel(value, channels) for value in given)
    if first is None or second is None:
        return None
    if layer.class_name == "Rescaling":
        return first, second
    std = np.maximum(np.sqrt(second), 1e-7)  # keras.config.epsilon(), what Normalization divides by at least
    return 1 / std, -first / std


def _per_channel(value: Any, channels: int) -> np.ndarray | None:
    """Return a constant as one number a channel, or None if it is not one. Keras 3 writes arrays as objects."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("value")
    if value is None or (hasattr(value, "nbytes") and value.nbytes > 8 * channels):
        return None
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    return np.broadcast_to(array, channels) if array.size in (1, channels) else None


def _input_size(front: Sequence[Declaration], layers: Sequence[Declaration]) -> tuple[int, int] | None:
    shapes = [layer.config.get("batch_shape") or layer.config.get("batch_input_shape") for layer in front]
    shape = next((shape for shape in reversed(shapes) if shape), None)
    stem = next((layer.config for layer in layers if layer.name == "stem_conv"), {})
    if not isinstance(shape, list) or len(shape) != 4:
        return None
    height, width = shape[2:] if stem.get("data_format") == "channels_first" else shape[1:3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
