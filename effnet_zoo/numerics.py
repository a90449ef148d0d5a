"""Numbers for proofs and tests: relative errors, and random weights that behave like trained ones."""

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.network.layers import Block
from effnet_zoo.network.model import EfficientNet

AnyModule = TypeVar("AnyModule", bound=nn.Module)

BRANCH_SCALE = 0.25
"""Factor of a residual block's branch in `damp`."""


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Return ||out - reference|| / ||reference||, computed in float64 on the CPU; infinity if `out` is not finite.

    Where the reference is zero everywhere, as the logits of a classifier of zeros are, return ||out||.
    """
    reference = reference.detach().double().cpu()
    length = reference.norm()
    difference = (out.detach().double().cpu() - reference).norm() / (length if length > 0 else 1.0)
    return difference.item() if difference.isfinite() else float("inf")


def shallow(arch: ArchSpec, repeats: int = 1) -> ArchSpec:
    """Return the network with at most `repeats` blocks a stage: every kind of block, in a fraction of the time."""
    stages = tuple(dataclasses.replace(stage, repeats=min(repeats, stage.repeats)) for stage in arch.stages)
    return dataclasses.replace(arch, stages=stages)


@torch.no_grad()
def randomise(model: AnyModule, *, seed: int) -> AnyModule:
    """Draw all weights and batch norm statistics, so that a wrong epsilon, padding or key shows in the output.

    Activations stay near unit scale, where half precision is used too. An epsilon of 1e-3 instead of 1e-5 changes every
    layer by 5e-4.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size, scale: float) -> Tensor:
        return torch.randn(shape, generator=draw) * scale

    def uniform(shape: torch.Size, low: float, width: float) -> Tensor:
        return torch.rand(shape, generator=draw) * width + low

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.weight.copy_(normal(layer.weight.shape, (2 / layer.weight[0].numel()) ** 0.5))
            if layer.bias is not None:
                layer.bias.copy_(normal(layer.bias.shape, 0.1))
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None
            assert layer.running_var is not None
            shape = layer.weight.shape
            layer.running_mean.copy_(normal(shape, 0.2))
            layer.running_var.copy_(uniform(shape, 0.5, 1.5))
            layer.weight.copy_(uniform(shape, 0.5, 1.0))
            layer.bias.copy_(normal(shape, 0.2))
    return model


@torch.no_grad()
def damp(model: EfficientNet) -> EfficientNet:
    """Make the branches of residual blocks weaker than their shortcuts, as training does.

    With branches as strong as shortcuts, each block magnifies rounding: float32 loses 1e-2 through V2-S or B5.
    """
    for block in model.modules():
        if isinstance(block, Block) and block.skip:
            *_, last = (layer for layer in block.children() if isinstance(layer, nn.BatchNorm2d))
            last.weight.mul_(BRANCH_SCALE)
    return model


def settle(model: AnyModule, images: Tensor) -> AnyModule:
    """Give batch norm the statistics of these images, and put the model into eval mode.

    With random statistics V2-S magnifies rounding by 1e14 from its images to its logits: only the same additions in the
    same order would agree.
    """
    norms = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.train().momentum = 1.0
    with torch.no_grad():
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long)
    return model.eval()
