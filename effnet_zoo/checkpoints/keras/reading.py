"""Read the network in one of Keras' files, found by the names of its layers."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from effnet_zoo.checkpoints.keras.hdf5 import OpenFile, datasets_of, import_h5py, opened, tensors_of
from effnet_zoo.checkpoints.keras.layers import OF_NETWORK, declared_layers, variables_by_layer
from effnet_zoo.checkpoints.keras.surroundings import (
    Normalisation,
    around_network,
    classifier_activation,
    input_size,
    normalisation_of,
)
from effnet_zoo.errors import FileError, WeightsError
from effnet_zoo.layouts.keytable import State

OPTIMIZER, METRIC = "state of the optimizer", "a metric of the training"
TRAINING = {
    "optimizer": OPTIMIZER,
    "optimizer_weights": OPTIMIZER,
    "metrics": METRIC,
    "compile_metrics": METRIC,
    "_compile_metrics": METRIC,
    "loss_tracker": METRIC,
    "_loss_tracker": METRIC,
}
"""Folders at the top of a file that hold no layer, and what they hold instead."""

AVERAGES = "; its moving averages (use_ema) are part of it, which Keras copies into the layers at the end of fit"
PREPARES = "part of how images are prepared"
RANDOM = "state of a random generator"
NOT_BACKBONE = "not of the backbone"


@dataclass(frozen=True, slots=True, kw_only=True)
class KerasFile:
    """The content of a file.

    Attributes:
        state: Tensors by ``layer/variable``, in Keras' order of axes. The classifier is ``predictions``, whatever its
            name in the file.
        normalisation: What the layers in front of the network do to pixels 0..255, as mean and standard deviation of
            each channel for pixels 0..1. None if the file does not say, or a layer does something else.
        dropped: Variables left out on purpose, each with the reason.
        classifier_activation: What turns logits into the model's output, ``linear`` if nothing does. None if the file
            does not say, or there is no classifier.
        input_size: Height and width that the network was built for. None if the file does not say, or any will do.
    """

    state: State
    normalisation: Normalisation | None
    dropped: dict[str, str]
    classifier_activation: str | None
    input_size: tuple[int, int] | None


def read_keras_file(path: Path, *, backbone_only: bool = False) -> KerasFile:
    """Read the network in a ``.keras``, ``.h5`` or ``.weights.h5`` file; its content tells which it is.

    Args:
        path: The file.
        backbone_only: Leave the head out, whatever it is.

    Raises:
        MissingExtraError: If h5py is not installed.
        WeightsError: If the file is of another format, is damaged, is larger than its content, holds not exactly one
            EfficientNet of keras.applications, or its head is not average pooling and one dense layer.
    """
    h5py = import_h5py()
    try:
        with opened(path, h5py) as file:
            return _read(file, h5py, backbone_only=backbone_only)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error.__cause__
    except FileError as error:
        raise WeightsError(f"{error}: expected a weight file") from None
    except Exception as error:  # h5py, zipfile and json raise whatever a damaged file makes of them
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise WeightsError(
            f"{path} is not a whole file of Keras: {reason[0]}. Expected what model.save or model.save_weights wrote: "
            "save or download it again"
        ) from error


def _read(file: OpenFile, h5py: ModuleType, *, backbone_only: bool) -> KerasFile:
    layers = list(declared_layers(file.model)) if file.model and "layers" in file.model.config else None
    datasets = dict(datasets_of(file.hdf5, h5py))
    dropped = _not_of_layers(datasets, file.training)
    kept = {key: dataset for key, dataset in datasets.items() if key not in dropped}
    variables = variables_by_layer(file.hdf5, kept, layers)
    network = {name: found for name, found in variables.items() if OF_NETWORK.fullmatch(name)}
    if "stem_conv" not in network:
        some = ", ".join(list(variables)[:3]) or "none"
        raise WeightsError(
            f"no layer stem_conv among its layers ({some}, ...): expected an EfficientNet of keras.applications, whose "
            "layers have kept their names"
        )
    normalizations = {name: found for name, found in variables.items() if {"mean", "variance"} <= found.keys()}
    classifiers = {
        name: found
        for name, found in variables.items()
        if name not in network and found.keys() == {"kernel", "bias"} and found["kernel"].ndim == 2
    }
    others = variables.keys() - network.keys() - normalizations.keys() - classifiers.keys()
    if backbone_only:
        head = sorted(others | classifiers.keys())
        dropped.update({f"{name}/{variable}": NOT_BACKBONE for name in head for variable in variables[name]})
        classifiers, others = {}, set()
    if others or len(classifiers) > 1:
        names = ", ".join(sorted(others or classifiers))
        raise WeightsError(
            f"layers beside the network that ours has no place for ({names}): expected one dense layer, the "
            "classifier, or none; convert --backbone-only leaves them out"
        )
    dropped.update({f"{name}/{variable}": PREPARES for name, found in normalizations.items() for variable in found})
    for found in classifiers.values():
        network["predictions"] = found
    state = tensors_of({f"{name}/{key}": dataset for name, found in network.items() for key, dataset in found.items()})
    before, after = ([], []) if layers is None else around_network(layers)
    return KerasFile(
        state=state,
        normalisation=normalisation_of(before, normalizations, channels=state["stem_conv/kernel"].shape[-2]),
        dropped=dropped,
        classifier_activation=classifier_activation(after) if classifiers and layers is not None else None,
        input_size=input_size(before, layers or ()),
    )


def _not_of_layers(paths: Iterable[str], training: Mapping[str, Any]) -> dict[str, str]:
    """Return the data sets that belong to no layer or are useless at inference, each with the reason."""
    optimizer = training.get("optimizer_config") or training.get("optimizer")
    averaged = isinstance(optimizer, dict) and optimizer.get("config", {}).get("use_ema")
    reasons: dict[str, str] = {}
    for path in paths:
        if (top := path.partition("/")[0]) in TRAINING:
            reasons[path] = TRAINING[top] + (AVERAGES if averaged and top.startswith("optimizer") else "")
        elif "/seed_generator/" in path or path.endswith("/seed_generator_state"):
            reasons[path] = RANDOM
    return reasons
