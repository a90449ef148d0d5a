"""Batch norm folded into the convolutions before it: the same function of the images in half as many passes."""

import copy
import itertools
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from effnet_zoo.errors import ArgumentError, first_line
from effnet_zoo.network.backbone import Backbone
from effnet_zoo.network.layers import Block, DropPath, SameConv2d, SqueezeExcite
from effnet_zoo.network.options import check

Network = TypeVar("Network", bound=Backbone)


def optimize(model: Network, dtype: torch.dtype | None = None) -> Network:
    """Return a faster copy of a model for inference; the model itself stays as it is.

    Every batch norm becomes part of the convolution before it, computed in float64. Dropout and stochastic depth are
    removed, no parameter takes a gradient, and `train` changes nothing any more. Weights lie channels last, and maps
    are scaled and added in place. Outputs differ from the model's by rounding only. The copy has all of the model's
    methods.

    Args:
        model: A classifier or a feature pyramid, on any device.
        dtype: Type of the copy's weights, and of the images it takes; by default the model's.

    Raises:
        ArgumentError: If the model is not of this package, is on the meta device, or has a batch norm that does not
            follow a convolution as built, or if the dtype is not torch.float32, float64, float16 or bfloat16.
    """
    if not isinstance(model, Backbone):
        raise ArgumentError(f"optimize: expected a model of this package, found {type(model).__name__}")
    check(dtype=dtype)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ArgumentError("optimize: the model is on the meta device: expected one with weights; load them first")
    optimized = copied(model).eval()
    optimized.set_grad_checkpointing(False)
    for parent in list(optimized.modules()):
        if isinstance(parent, Block | SqueezeExcite):
            parent.inplace = True
        for (_, conv), (name, norm) in itertools.pairwise(list(parent.named_children())):
            if _foldable(conv) and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None:
                _fold(cast(nn.Conv2d, conv), norm)
                setattr(parent, name, nn.Identity())
        for name, child in parent.named_children():
            if isinstance(child, nn.Dropout | DropPath):
                setattr(parent, name, nn.Identity())
    if left := [name for name, module in optimized.named_modules() if isinstance(module, _BatchNorm)]:
        raise ArgumentError(
            f"optimize: cannot fold {left[0]}: expected batch norm and the convolution before it as built"
        )
    return optimized.to(dtype=dtype).to(memory_format=torch.channels_last).requires_grad_(False)


def in_eval(model: Network) -> Network:
    """Return a copy of a model in eval mode that shares its tensors; the model itself may be in use."""
    tensors = [*model.parameters(), *model.buffers()]
    return copied(model, {id(tensor): tensor for tensor in tensors}).eval()


def copied(model: Network, shared: dict[int, Any] | None = None) -> Network:
    """Return a deep copy of a model; `shared` has, by id, the objects that the copy shares with the model.

    Raises:
        ArgumentError: If torch cannot copy it, because parametrised or pruned weights are computed, not parameters.
    """
    try:
        return copy.deepcopy(model, shared)
    except RuntimeError as error:
        raise ArgumentError(
            f"the model cannot be copied: {first_line(error)}: make its weights parameters first, with "
            "torch.nn.utils.prune.remove or remove_weight_norm"
        ) from error


def _foldable(conv: nn.Module) -> bool:
    """Return whether a layer's output is linear in its weight; a subclass or a hook may compute something else."""
    return type(conv) in (nn.Conv2d, SameConv2d) and not conv._forward_pre_hooks and not conv._forward_hooks


def _fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    given = (conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
    in_float64: Any = (value.double() if isinstance(value, Tensor) else value for value in given)
    weight, bias = fuse_conv_bn_weights(*in_float64)
    conv.bias = nn.Parameter(bias.detach().to(conv.weight.dtype))
    conv.weight = nn.Parameter(weight.detach().to(conv.weight.dtype))
