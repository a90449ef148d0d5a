"""The four kinds of block, and stages of them.

Module names are timm's (``conv_pw``, ``bn1``, ``conv_dw``, ``se.conv_reduce``, ...), so that checkpoints move between
the two libraries with plain `load_state_dict`.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effnet_zoo.arch.blocks import BlockKind, BlockSpec
from effnet_zoo.network.layers import DropPath, Layers


class Block(nn.Sequential):
    """Layers in a row, by name, and the residual connection around them.

    Attributes:
        skip: Whether the input is added to the last layer's output.
        inplace: Whether it is added in place where no gradient is needed.
    """

    def __init__(self, block: BlockSpec, **layers: nn.Module) -> None:
        drop_path = DropPath(block.drop_path) if block.skip and block.drop_path else nn.Identity()
        super().__init__(OrderedDict(layers, drop_path=drop_path))
        self.skip = block.skip
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        for layer in self:
            x = layer(x)
        return self.add_skip(x, shortcut) if self.skip else x

    def add_skip(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return x.add_(shortcut) if self.inplace and not (x.requires_grad or shortcut.requires_grad) else x + shortcut


class MBConv(Block):
    """Mobile inverted bottleneck: expand, depthwise, squeeze-excite, project without activation."""

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        filters = block.mid_filters
        super().__init__(
            block,
            conv_pw=make.conv(block.in_filters, filters),
            bn1=make.norm(filters),
            act1=make.act(),
            conv_dw=make.spatial_conv(block, filters, filters, depthwise=True),
            bn2=make.norm(filters),
            act2=make.act(),
            se=make.squeeze_excite(filters, block.se_filters),
            conv_pwl=make.conv(filters, block.out_filters),
            bn3=make.norm(block.out_filters),
        )


class SeparableConv(Block):
    """MBConv with expansion 1, which has no expand convolution."""

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        filters = block.in_filters
        super().__init__(
            block,
            conv_dw=make.spatial_conv(block, filters, filters, depthwise=True),
            bn1=make.norm(filters),
            act1=make.act(),
            se=make.squeeze_excite(filters, block.se_filters),
            conv_pw=make.conv(filters, block.out_filters),
            bn2=make.norm(block.out_filters),
        )


class FusedMBConv(Block):
    """Expand and depthwise convolution fused into one dense convolution; project without activation."""

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(
            block,
            conv_exp=make.spatial_conv(block, block.in_filters, block.mid_filters),
            bn1=make.norm(block.mid_filters),
            act1=make.act(),
            conv_pwl=make.conv(block.mid_filters, block.out_filters),
            bn2=make.norm(block.out_filters),
        )


class ConvBlock(Block):
    """Fused-MBConv with expansion 1, which has no projection: one convolution with activation."""

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(
            block,
            conv=make.spatial_conv(block, block.in_filters, block.out_filters),
            bn1=make.norm(block.out_filters),
            act1=make.act(),
        )


BLOCKS: dict[BlockKind, Callable[[BlockSpec, Layers], Block]] = {
    "mbconv": MBConv,
    "separable": SeparableConv,
    "fused": FusedMBConv,
    "conv": ConvBlock,
}


class Stage(nn.Sequential):
    """Blocks in a row. With `grad_checkpointing`, backward runs each block again instead of keeping its activations."""

    def __init__(self, blocks: Iterable[BlockSpec], make: Layers) -> None:
        super().__init__(*(BLOCKS[block.kind](block, make) for block in blocks))
        self.grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        for block in self:
            if self.grad_checkpointing and not torch.jit.is_scripting():
                x = checkpointed(block, x)
            else:
                x = block(x)
        return x


def checkpointed(block: nn.Module, x: Tensor) -> Tensor:
    """Run a block without keeping its activations; backward runs it again, without moving batch norm's statistics."""
    if torch.compiler.is_compiling():  # the compiler recomputes only pure operations, so statistics move once anyway
        return checkpoint(block, x, use_reentrant=False)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_kept(block)

    return checkpoint(block, x, use_reentrant=False, context_fn=contexts)


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch norm move copies of its statistics, and put the originals back."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
