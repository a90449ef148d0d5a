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
from effnet_zoo.checkpoints.keras.reading import EPSILON, Normalisation
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keras import KERAS_V1, KERAS_V2
from effnet_zoo.layouts.keytable import role_of

UNCHANGED: Normalisation = ((0.0,) * 3, (1.0,) * 3)
"""The normalisation that leaves pixels scaled to 0..1 alone."""


def write_keras_file(
    path: Path, state: Mapping[str, Tensor], arch: ArchSpec, normalisation: Normalisation = UNCHANGED
) -> None:
    """Write a ``.weights.h5`` file that ``keras.applications.EfficientNetB0(weights=None)`` loads, whole or not at all.

    The state has all tensors of the network by our keys, or all but the classifier, for ``include_top=False``. Only
    V1's file holds the normalisation. V2's code has constants (``include_preprocessing``), and the users of other
    weights prepare images themselves.
    """
    h5py = import_h5py()
    squeezes = all(block.se_filters for stage in arch.blocks() for block in stage if block.kind in KERAS_V1.blocks)
    expected = {"activation": "silu", "padding": "same", "bn_eps": EPSILON, "squeeze-excite": True}
    given = {"activation": arch.activation, "padding": arch.padding, "bn_eps": arch.bn_eps, "squeeze-excite": squeezes}
    if given != expected:
        raise WeightsError(f"{path}: keras.applications has no such network: expected {expected}, got {given}")
    table = KERAS_V2 if any(stage.fused for stage in arch.stages) else KERAS_V1
    theirs = table.to_theirs(state, arch)
    used: Counter[str] = Counter()
    with written_whole(path) as beside, h5py.File(beside, "w") as file:
        if table is KERAS_V1:
            mean, std = (np.asarray(values, dtype=np.float64) for values in normalisation)
            count = np.zeros((), dtype=np.int32)  # of adapted batches, which older Keras counted
            _write_layer(file, "normalization", "normalization", [mean.astype("f4"), (std**2).astype("f4"), count])
        for ours, layer in table.modules(arch).items():
            role = role_of(ours)
            keys = [f"{layer}/{form.name}" for form in table.forms[role].values()]
            if keys[0] in theirs:
                _write_layer(file, numbered(CLASSES[role], used), layer, [_array(theirs[key]) for key in keys])


def _write_layer(file: Any, group: str, name: str, values: Sequence[np.ndarray]) -> None:
    folder = file.create_group(f"layers/{group}/vars")
    folder.attrs["name"] = name
    for number, value in enumerate(values):
        folder.create_dataset(str(number), data=value)


def _array(tensor: Tensor) -> np.ndarray:
    """Return values in float64 if they are, else in float32, which every Keras reads."""
    tensor = tensor.detach().cpu()
    return (tensor if tensor.dtype == torch.float64 else tensor.float()).contiguous().numpy()
