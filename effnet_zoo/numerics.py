"""Numbers for proofs and tests: relative errors, and random weights that behave like trained ones."""

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.network.blocks import Block
from effnet_zoo.network.model import EfficientNet

AnyModule = TypeVar("AnyModule", bound=nn.Module)

BRANCH = 0.25
"""How strong the branch of a residual block is beside its shortcut, in `damp`."""


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Returns ||out - reference|| / ||reference||, computed in float64 on the CPU; infinite if `out` is not finite.

    If the reference is zero everywhere, as the logits of a classifier that starts from zeros are, it is ||out||.
    """
    reference = reference.detach().double().cpu()
    length = reference.norm()
    difference = (out.detach().double().cpu() - reference).norm() / (length if length > 0 else 1.0)
    return difference.item() if difference.isfinite() else float("inf")


def shallow(arch: ArchSpec, repeats: int = 1) -> ArchSpec:
    """The network with at most so many blocks a stage: every kind of block, at a fraction of the time."""
    stages = tuple(dataclasses.replace(stage, repeats=min(repeats, stage.repeats)) for stage in arch.stages)
    return dataclasses.replace(arch, stages=stages)


@torch.no_grad()
def randomise(model: AnyModule, *, seed: int) -> AnyModule:
    """Draw all weights and batch norm statistics, so that a wrong epsilon, padding or key cannot go unnoticed.

    Activations stay near unit scale, so that half precision is tested where it is used; an epsilon of 1e-3 instead of
    1e-5 still changes every layer by 5e-4.
    """
    draw = torch.Generator().manual_seed(seed)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            fan_in = layer.weight[0].numel()
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=draw) * (2 / fan_in) ** 0.5)
            if layer.bias is not None:
                layer.bias.copy_(torch.randn(layer.bias.shape, generator=draw) * 0.1)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            size = layer.num_features
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.copy_(torch.randn(size, generator=draw) * 0.2)
            layer.running_var.copy_(torch.rand(size, generator=draw) * 1.5 + 0.5)
            layer.weight.copy_(torch.rand(size, generator=draw) + 0.5)
            layer.bias.copy_(torch.randn(size, generator=draw) * 0.2)
    return model


@torch.no_grad()
def damp(model: EfficientNet) -> EfficientNet:
    """Make the branches of residual blocks weaker than their shortcuts, as training leaves them.

    As strong, each block magnifies rounding: through V2-S or B5 float32 loses 1e-2.
    """
    for block in model.modules():
        if isinstance(block, Block) and block.skip:
            *_, last = (layer for layer in block.children() if isinstance(layer, nn.BatchNorm2d))
            last.weight.mul_(BRANCH)
    return model


def settle(model: AnyModule, images: Tensor) -> AnyModule:
    """Give batch norm the statistics of images, with which a drawn network is not chaotic, and eval mode.

    With statistics from nowhere V2-S magnifies rounding by 1e14 from its images to its logits: only the same additions
    in the same order would agree.
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
