"""The options that models are built with, and the checks of these and of other arguments."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypedDict, get_type_hints

import torch

from effnet_zoo.arch.checks import MAX_WHOLE, is_whole
from effnet_zoo.arch.families import Activation, Padding
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import ArgumentError, UnknownNameError, did_you_mean, first_line, quoted

GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")
WEIGHT_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

NUMERICS = {"act_layer": "activation"} | {
    name: name for name in ("padding", "bn_eps", "bn_momentum", "drop_rate", "drop_path_rate")
}
"""The options that replace a field of the `ArchSpec`, and the name of the field."""

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
    """The options of every function that builds a classifier.

    `EfficientNet` explains the first six, and `ArchSpec` the others. An option left out is as the architecture
    declares it.
    """

    num_classes: int
    in_chans: int
    global_pool: str
    output_stride: int
    device: torch.device | str | None
    dtype: torch.dtype | None
    drop_rate: float
    drop_path_rate: float
    padding: Padding
    bn_eps: float
    bn_momentum: float
    act_layer: Activation  # `ArchSpec.activation`


class ModelOptions(BuildOptions, total=False):
    """`BuildOptions`, and two options for a feature pyramid instead of a classifier.

    With `features_only` an `EfficientNetFeatures` is built, which explains `out_indices`. It has no head: num_classes,
    global_pool and drop_rate are ignored, as in timm.
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


FITTING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "arch": (lambda arch: isinstance(arch, ArchSpec), "an ArchSpec, as ArchSpec.from_blocks gives"),
    "num_classes": (is_whole, f"a whole number of at least 0, up to {MAX_WHOLE}"),
    "in_chans": (lambda count: is_whole(count, least=1), f"a whole number of at least 1, up to {MAX_WHOLE}"),
    "global_pool": (lambda pool: pool in GLOBAL_POOLS, f"one of {', '.join(map(repr, GLOBAL_POOLS))}"),
    "dtype": (
        lambda dtype: dtype is None or (isinstance(dtype, torch.dtype) and dtype in WEIGHT_DTYPES),
        ", ".join(map(str, WEIGHT_DTYPES)),
    ),
    "device": (
        lambda device: isinstance(device, torch.device | str | None),
        "a torch.device or its name, such as 'cpu' or 'cuda:0'",
    ),
}
"""For each argument of a network, the test of its value, and what to expect."""


def check(**arguments: Any) -> None:
    """Raise ArgumentError unless each argument, a key of `FITTING`, has a value that a network can be built with."""
    for name, value in arguments.items():
        fits, expected = FITTING[name]
        if not fits(value):
            raise ArgumentError(f"{name}={quoted(value)}: expected {expected}")
    if (device := arguments.get("device")) is None:
        return
    try:
        torch.empty(0, device=device)
    except Exception as error:  # torch raises RuntimeError, AssertionError, ImportError and others
        raise ArgumentError(
            f"device={quoted(device)}: {first_line(error)}: expected a device of this machine"
        ) from None


def check_path(name: str, value: str | os.PathLike[str] | None) -> None:
    """Raise ArgumentError unless a value is a path or None."""
    if not isinstance(value, str | os.PathLike | None):
        raise ArgumentError(f"{name}={quoted(value)}: expected a path")


def check_flags(**flags: bool) -> None:
    """Raise ArgumentError unless all arguments are True or False."""
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise ArgumentError(f"{name}={quoted(value)}: expected True or False")


def chosen(name: str, known: Iterable[str], what: str) -> str:
    """Return a name that is one of the known names, or raise UnknownNameError."""
    names = list(known)
    if name not in names:
        raise UnknownNameError(
            f"unknown {what} {quoted(name)}: expected {', '.join(names)}.{did_you_mean(name, names)}"
        )
    return name
