"""Write the weights of a network for keras.applications."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.atomic_io import written_whole
from effnet_zoo.checkpoints.keras.hdf5 import import_h5py
from effnet_zoo.checkpoints.keras.layers import CLASSES, numbered
from effnet_zoo.checkpoints.keras.surroundings import EPSILON, Normalisation
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2
from effnet_zoo.layouts.keytable import KeyTable, role_of


def write_keras_file(
    path: Path, state: Mapping[str, Tensor], arch: ArchSpec, *, normalisation: Normalisation | None
) -> None:
    """Write a file that ``keras.applications.EfficientNetB0(weights=None)`` loads, whole or not at all.

    Args:
        path: Where to; Keras loads it by its name, which must end in ``.weights.h5``.
        state: Tensors by our keys; without a classifier, for ``include_top=False``.
        arch: The network.
        normalisation: For V1, whose model has a layer that takes it from the file. None for V2: the code of its model
            has constants (``include_preprocessing``), and the users of other weights prepare images themselves.

    Raises:
        MissingExtraError: If h5py is not installed.
        WeightsError: If the path has another ending, Keras' code cannot build the network, a tensor is missing or left
            over, or the normalisation is missing for V1 or given for V2.
    """
    h5py = import_h5py()
    table = KERAS_V2 if any(stage.fused for stage in arch.stages) else KERAS_V1
    _check(path, state, arch, table, normalisation)
    theirs = table.to_theirs(state, arch)
    used: Counter[str] = Counter()
    with written_whole(path) as beside, h5py.File(beside, "w") as file:
        if normalisation is not None:
            mean, std = (np.asarray(values, dtype=np.float64) for values in normalisation)
            count = np.zeros((), dtype=np.int32)  # of adapted batches, which older Keras counted
            _write_layer(file, "normalization", "normalization", [mean.astype("f4"), (std**2).astype("f4"), count])
        for ours, layer in table.modules(arch).items():
            role = role_of(ours)
            keys = [f"{layer}/{form.name}" for form in table.forms[role].values()]
            if keys[0] in theirs:
                group = numbered(CLASSES[role], used)
                _write_layer(file, group, layer, [_array(theirs[key]) for key in keys])


def _check(
    path: Path, state: Mapping[str, Tensor], arch: ArchSpec, table: KeyTable, normalisation: Normalisation | None
) -> None:
    if not path.name.endswith(".weights.h5"):
        raise WeightsError(f"{path}: expected a name that ends in .weights.h5, by which Keras loads it")
    squeezes = all(block.se_filters for stage in arch.blocks() for block in stage if block.kind in KERAS_V1.blocks)
    expected = {"activation": "silu", "padding": "same", "bn_eps": EPSILON, "squeeze-excite": True}
    given = {"activation": arch.activation, "padding": arch.padding, "bn_eps": arch.bn_eps, "squeeze-excite": squeezes}
    if given != expected:
        raise WeightsError(f"{path}: keras.applications has no such network: expected {expected}, got {given}")
    if (normalisation is None) == (table is KERAS_V1):
        raise WeightsError(
            f"{path}: expected a normalisation for V1, whose file holds it, and None for V2, whose code fixes it"
        )
    has_classifier = any(key.startswith("classifier.") for key in state)
    needed = [key for key in table.keys(arch) if has_classifier or not key.startswith("classifier.")]
    if missing := [key for key in needed if key not in state]:
        raise WeightsError(f"{path}: {len(missing)} tensors are missing ({missing[0]}, ...): expected a whole network")


def _write_layer(file: Any, group: str, name: str, values: Sequence[np.ndarray]) -> None:
    folder = file.create_group(f"layers/{group}/vars")
    folder.attrs["name"] = name
    for number, value in enumerate(values):
        folder.create_dataset(str(number), data=value)


def _array(tensor: Tensor) -> np.ndarray:
    """Return values in float64 if they are, else in float32, which every Keras reads."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).contiguous().numpy()
