"""The keywords of every function that builds a model, and the refusal of any other."""

from collections.abc import Iterable, Sequence
from typing import TypedDict, get_type_hints

import torch

from effnet_zoo.errors import ArgumentError, did_you_mean
from effnet_zoo.families import Activation, Padding

RENAMED = {
    "in_channels": "in_chans",
    "include_top": "num_classes=0",
    "dropout_rate": "drop_rate",
    "drop_connect_rate": "drop_path_rate",
    "batch_norm_epsilon": "bn_eps",
    "batch_norm_momentum": "bn_momentum (PyTorch's sense: 1 - TensorFlow's)",
    "pad_type": "padding",
    "activation": "act_layer",
}
"""What other libraries call an option, and what it is called here."""


class BuildOptions(TypedDict, total=False):
    """Keywords of every function that builds a classifier; what is left out is as the architecture declares it.

    Keys:
        num_classes: Classes; 0 for pooled features instead of logits.
        in_chans: Channels of the image.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for none (with num_classes=0).
        drop_rate: Dropout rate in front of the classifier.
        drop_path_rate: Stochastic depth rate.
        output_stride: 8, 16 or 32; strides beyond it become dilation.
        padding: ``same`` or ``symmetric``.
        bn_eps: Batch norm epsilon.
        bn_momentum: Batch norm momentum in PyTorch's sense.
        act_layer: ``silu``, ``relu`` or ``relu6``.
        device: Where to build; ``meta`` allocates nothing.
        dtype: Of parameters and buffers.
    """

    num_classes: int
    in_chans: int
    global_pool: str
    drop_rate: float
    drop_path_rate: float
    output_stride: int
    padding: Padding
    bn_eps: float
    bn_momentum: float
    act_layer: Activation
    device: torch.device | str | None
    dtype: torch.dtype | None


class ModelOptions(BuildOptions, total=False):
    """`BuildOptions`, and two for a feature pyramid instead of a classifier.

    Keys:
        features_only: Build an `EfficientNetFeatures`. It has no head, which num_classes, global_pool and drop_rate
            are about: with features_only they mean nothing, as in timm.
        out_indices: Its levels; see there.
    """

    features_only: bool
    out_indices: int | Sequence[int]


def check_options(options: Iterable[str], known: type) -> None:
    """Refuse keywords that are not keys of `known`.

    Raises:
        ArgumentError: Naming the keyword and the nearest one.
    """
    names = list(get_type_hints(known))
    for name in options:
        if name not in names:
            hint = f" Here it is called {RENAMED[name]}." if name in RENAMED else did_you_mean(name, names)
            raise ArgumentError(f"unknown keyword {name!r}: expected some of {', '.join(names)}.{hint}")
