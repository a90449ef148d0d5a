"""The options that models are built with, and the checks of these and of other arguments."""

import os
from collections.abc import Iterable, Sequence
from typing import TypedDict, get_type_hints

import torch

from effnet_zoo.arch.checks import MAX_WHOLE, is_whole
from effnet_zoo.arch.families import Activation, Padding
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, first_line, quoted

GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
WEIGHT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

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
"""The names that other libraries give to options, and the names of the same options here."""


class BuildOptions(TypedDict, total=False):
    """The options of every function that builds a classifier. An option left out is as the architecture declares it.

    Keys:
        num_classes: Number of classes; 0 for pooled features instead of logits.
        in_chans: Channels of the image.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for no pooling (with num_classes=0).
        drop_rate: Dropout rate in front of the classifier.
        drop_path_rate: Stochastic depth rate.
        output_stride: Total stride of the network: 8, 16 or 32. Strides beyond it become dilation. Left out, all
            strides are as declared, 32 in every variant.
        padding: ``same`` or ``symmetric``.
        bn_eps: Batch norm epsilon.
        bn_momentum: Batch norm momentum in PyTorch's sense.
        act_layer: ``silu``, ``relu`` or ``relu6``.
        device: Device of the weights; on ``meta`` nothing is allocated.
        dtype: Type of the weights: torch.float32, float64, float16 or bfloat16.
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
    """`BuildOptions`, and two options for a feature pyramid instead of a classifier.

    Keys:
        features_only: Whether to build an `EfficientNetFeatures`. It has no head, so that num_classes, global_pool and
            drop_rate are ignored, as in timm.
        out_indices: The levels of the pyramid, as `EfficientNetFeatures` takes them.
    """

    features_only: bool
    out_indices: int | Sequence[int]


def check_options(options: Iterable[str], known: type) -> None:
    """Raise ArgumentError at an option that is not a key of the TypedDict `known`, naming the nearest key."""
    names = list(get_type_hints(known))
    for name in options:
        if name not in names:
            hint = f" Here it is called {RENAMED[name]}." if name in RENAMED else did_you_mean(name, names)
            raise ArgumentError(f"unknown keyword {quoted(name)}: expected one of {', '.join(names)}.{hint}")


def check_arch(arch: ArchSpec) -> None:
    """Raise ArgumentError unless `arch` is an `ArchSpec`."""
    if not isinstance(arch, ArchSpec):
        raise ArgumentError(f"arch={quoted(arch)}: expected an ArchSpec, as ArchSpec.from_blocks gives")


def check_whole_option(name: str, value: int, *, least: int) -> None:
    """Raise ArgumentError unless a value is a whole number from `least` to `MAX_WHOLE`."""
    if not is_whole(value, least=least):
        raise ArgumentError(f"{name}={quoted(value)}: expected a whole number of at least {least}, up to {MAX_WHOLE}")


def check_global_pool(value: str) -> None:
    """Raise ArgumentError unless a value is one of `GLOBAL_POOLS`."""
    if not isinstance(value, str) or value not in GLOBAL_POOLS:
        raise ArgumentError(f"global_pool={quoted(value)}: expected one of {', '.join(map(repr, GLOBAL_POOLS))}")


def check_path(name: str, value: str | os.PathLike[str] | None) -> None:
    """Raise ArgumentError unless a value is a path or None."""
    if not isinstance(value, str | os.PathLike | None):
        raise ArgumentError(f"{name}={quoted(value)}: expected a path")


def check_weight_dtype(dtype: torch.dtype | None) -> None:
    """Raise ArgumentError unless a dtype is one of `WEIGHT_DTYPES` or None."""
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype in WEIGHT_DTYPES):
        raise ArgumentError(f"dtype={quoted(dtype)}: expected {', '.join(map(str, WEIGHT_DTYPES))}")


def check_place(device: torch.device | str | None, dtype: torch.dtype | None) -> None:
    """Raise ArgumentError unless weights can be made on this device of this machine, and in this dtype."""
    check_weight_dtype(dtype)
    if device is None:
        return
    if not isinstance(device, torch.device | str):
        raise ArgumentError(f"device={quoted(device)}: expected a torch.device or its name, such as 'cpu' or 'cuda:0'")
    try:
        torch.empty(0, device=device)
    except Exception as error:  # torch raises RuntimeError, AssertionError, ImportError and others
        raise ArgumentError(
            f"device={quoted(device)}: {first_line(error)}: expected a device of this machine"
        ) from None


def chosen(name: str, known: Iterable[str], what: str) -> str:
    """Return a name that is one of the known names.

    Raises:
        UnknownNameError: If it is not.
    """
    names = list(known)
    if name not in names:
        hint = did_you_mean(name, names) if isinstance(name, str) else ""
        raise UnknownNameError(f"unknown {what} {quoted(name)}: expected {', '.join(names)}.{hint}")
    return name


def check_flags(**flags: bool) -> None:
    """Raise ArgumentError unless all arguments are True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ArgumentError(f"{name}={quoted(value)}: expected True or False")
