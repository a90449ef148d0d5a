"""Understand what stands in front of the network and behind it in a Keras model, from the layers it declares."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from effnet_zoo.checkpoints.keras.hdf5 import Dataset
from effnet_zoo.checkpoints.keras.layers import OF_NETWORK, DeclaredLayer, Variables
from effnet_zoo.errors import WeightsError

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel of an image scaled to 0..1."""

HEADS = (
    ("GlobalAveragePooling2D", "Dense"),
    ("GlobalAveragePooling2D", "Flatten", "Dense"),
    ("GlobalAveragePooling2D", "Dense", "Activation"),
    ("GlobalAveragePooling2D", "Dense", "Softmax"),
)
"""Classes of the layers that may follow the network, without dropout."""

DROPOUT = ("Dropout", "FixedDropout")
RESIZES = ("InputLayer", "Resizing", "CenterCrop")
"""Layers in front of the network that leave the scale of pixels alone. So do all random ones at inference."""

SILU = ("swish", "silu")
EPSILON = 1e-3


def around_network(layers: Sequence[DeclaredLayer]) -> tuple[list[DeclaredLayer], list[DeclaredLayer]]:
    """Return the layers in front of the network and those behind it.

    Raises:
        WeightsError: If another layer is in between, or one of the network's is not as keras.applications builds it.
    """
    inside = [index for index, layer in enumerate(layers) if OF_NETWORK.fullmatch(layer.name)]
    if not inside:
        raise WeightsError("its configuration names other layers than its weights do: save the model again")
    for layer in layers[inside[0] : inside[-1] + 1]:
        if not OF_NETWORK.fullmatch(layer.name):
            raise WeightsError(f"layer {layer.name} ({layer.kind}) is inside the network: expected an unchanged one")
        _check_numerics(layer)
    return list(layers[: inside[0]]), list(layers[inside[-1] + 1 :])


def _check_numerics(layer: DeclaredLayer) -> None:
    epsilon = layer.config.get("epsilon", EPSILON)
    if not np.isclose(epsilon, EPSILON):
        raise WeightsError(f"layer {layer.name} has epsilon {epsilon}: expected keras.applications' {EPSILON}")
    if "activation" not in layer.config:
        return
    expected: tuple[str, ...] = ("linear",)
    if layer.name.endswith(("activation", "se_reduce")):
        expected = SILU
    elif layer.name.endswith("se_expand"):
        expected = ("sigmoid",)
    if (given := _activation(layer.config["activation"])) not in expected:
        raise WeightsError(f"layer {layer.name} has activation {given}: expected {expected[0]}")


def _activation(value: Any) -> str:
    """Return the name of an activation, which Keras writes as a name or as an object."""
    if isinstance(value, dict):
        inner = value.get("config")
        value = inner if isinstance(inner, str) else value.get("class_name")
    return "linear" if value is None else str(value).lower()


def classifier_activation(head: Sequence[DeclaredLayer]) -> str:
    """Return the name of the activation that turns logits into the model's output; ``linear`` for none.

    Raises:
        WeightsError: If the head is not average pooling and one dense layer.
    """
    rest = [layer for layer in head if layer.kind not in DROPOUT]
    if tuple(layer.kind for layer in rest) not in HEADS:
        shown = ", ".join(f"{layer.name} ({layer.kind})" for layer in head)
        raise WeightsError(
            f"its head is {shown}: expected GlobalAveragePooling2D, dropout or none, and one Dense; convert "
            "--backbone-only leaves it out"
        )
    dense, last = next(layer for layer in rest if layer.kind == "Dense"), rest[-1]
    activation = _activation(dense.config.get("activation"))
    if last is dense:
        return activation
    if activation != "linear":
        raise WeightsError(f"its head has two activations, in {dense.name} and in {last.name}: expected one")
    return "softmax" if last.kind == "Softmax" else _activation(last.config.get("activation"))


def normalisation_of(front: Sequence[DeclaredLayer], variables: Variables, channels: int) -> Normalisation | None:
    """Return the layers in front of the network as one normalisation, or None if one of them does something else.

    V1 with ImageNet's weights has three: 1/255, a Normalization whose variance is the standard deviation, and a second
    Rescaling by 1/sqrt(standard deviation) (keras/src/applications/efficientnet.py; tensorflow issue 49930).

    Args:
        front: The layers.
        variables: The data sets of the Normalization layers.
        channels: Channels of the image.
    """
    scale, offset = np.full(channels, 255.0), np.zeros(channels)
    is_random = {layer.name for layer in front if layer.kind.startswith("Random") and layer.kind != "RandomCrop"}
    steps = [layer for layer in front if layer.kind not in RESIZES and layer.name not in is_random]
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
    layer: DeclaredLayer, variables: Mapping[str, Dataset], channels: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the scale and offset that a layer applies to each channel, or None if it does something else."""
    config = layer.config
    if layer.kind == "Rescaling":
        scale, offset = (_per_channel(config.get(key), channels) for key in ("scale", "offset"))
        return None if scale is None or offset is None else (scale, offset)
    if layer.kind != "Normalization" or config.get("invert"):
        return None
    given = [config.get(key) if config.get(key) is not None else variables.get(key) for key in ("mean", "variance")]
    mean, variance = (_per_channel(value, channels) for value in given)
    if mean is None or variance is None:
        return None
    std = np.maximum(np.sqrt(variance), 1e-7)  # keras.config.epsilon(), what Normalization divides by at least
    return 1 / std, -mean / std


def _per_channel(value: Any, channels: int) -> np.ndarray | None:
    """Return a constant as one number a channel, or None if it is not one. Keras 3 writes arrays as objects."""
    if isinstance(value, dict):
        value = value.get("config", {}).get("value")
    if value is None or (hasattr(value, "nbytes") and value.nbytes > 8 * channels):
        return None
    array = np.asarray(value, dtype=np.float64).reshape(-1)
    return np.broadcast_to(array, channels) if array.size in (1, channels) else None


def input_size(front: Sequence[DeclaredLayer], layers: Sequence[DeclaredLayer]) -> tuple[int, int] | None:
    """Return the height and width that the network was built for; None if that is not declared, or any will do."""
    shapes = [layer.config.get("batch_shape") or layer.config.get("batch_input_shape") for layer in front]
    shape = next((shape for shape in reversed(shapes) if shape), None)
    stem = next((layer.config for layer in layers if layer.name == "stem_conv"), {})
    if not isinstance(shape, list) or len(shape) != 4:
        return None
    height, width = shape[2:] if stem.get("data_format") == "channels_first" else shape[1:3]
    return (height, width) if isinstance(height, int) and isinstance(width, int) else None
