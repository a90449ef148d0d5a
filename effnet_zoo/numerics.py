"""Numbers for proofs and tests: relative errors, and random weights that behave like trained ones."""

import dataclasses
from typing import TypeVar

import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.network.layers import Block
from effnet_zoo.network.model import EfficientNet

AnyModule = TypeVar("AnyModule", bound=nn.Module)


def relative_error(out: Tensor, reference: Tensor) -> float:
    """Return ||out - reference|| / ||reference|| in float64; infinity if `out` is not finite.

    Return ||out|| if the reference is zero everywhere, as the logits of a classifier of zeros are.
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

    Activations stay near unit scale. An epsilon of 1e-3 instead of 1e-5 changes every layer by 5e-4.
    """
    draw = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, scale: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=draw) * scale)

    def uniform(tensor: Tensor, low: float, width: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=draw) * width + low)

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            normal(layer.weight, (2 / layer.weight[0].numel()) ** 0.5)
            if layer.bias is not None:
                normal(layer.bias, 0.1)
        elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
            statistics = dict(layer.named_buffers())
            normal(statistics["running_mean"], 0.2)
            uniform(statistics["running_var"], 0.5, 1.5)
            uniform(layer.weight, 0.5, 1.0)
            normal(layer.bias, 0.2)
    return model


@torch.no_grad()
def damp(model: EfficientNet) -> EfficientNet:
    """Make the branches of residual blocks weaker than their shortcuts, as training does.

    With branches as strong as shortcuts, each block magnifies rounding: float32 loses 1e-2 through V2-S or B5.
    """
    for block in model.modules():
        if isinstance(block, Block) and block.skip:
            *_, last = (layer for layer in block.children() if isinstance(layer, nn.BatchNorm2d))
            last.weight.mul_(0.25)
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
