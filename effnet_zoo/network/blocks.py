"""The four kinds of block, and stages of them.

Module names are timm's (``conv_pw``, ``bn1``, ``conv_dw``, ``se.conv_reduce``, ...), so that checkpoints move between
the two libraries with plain `load_state_dict`.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from effnet_zoo.arch.spec import BlockKind, BlockSpec
from effnet_zoo.network.layers import DropPath, Layers


class Block(nn.Module):
    """The part that all kinds share: the residual connection with stochastic depth.

    Attributes:
        PATH: The names of the layers in `forward`, in its order, without the residual connection. The ONNX writer
            reads it; a subclass that defines `forward` defines PATH beside it.
        skip: Whether there is a residual connection.
        inplace: Whether the input is added in place where no gradient is needed.
    """

    PATH: ClassVar[tuple[str, ...]]

    def __init__(self, block: BlockSpec) -> None:
        super().__init__()
        self.skip = block.skip
        self.inplace = False
        self.drop_path = DropPath(block.drop_path) if block.skip and block.drop_path else nn.Identity()

    def add_skip(self, x: Tensor, shortcut: Tensor) -> Tensor:
        if not self.skip:
            return x
        x = self.drop_path(x)
        return x.add_(shortcut) if self.inplace and not (x.requires_grad or shortcut.requires_grad) else x + shortcut


def _spatial_conv(make: Layers, block: BlockSpec, inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """Make the one convolution of a block that sees neighbouring pixels."""
    return make.conv(inputs, outputs, block.kernel, stride=block.stride, dilation=block.dilation, groups=groups)


class MBConv(Block):
    """Mobile inverted bottleneck: expand, depthwise, squeeze-excite, project without activation."""

    PATH = ("conv_pw", "bn1", "act1", "conv_dw", "bn2", "act2", "se", "conv_pwl", "bn3")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        filters = block.mid_filters
        self.conv_pw = make.conv(block.in_filters, filters)
        self.bn1 = make.norm(filters)
        self.act1 = make.act()
        self.conv_dw = _spatial_conv(make, block, filters, filters, groups=filters)
        self.bn2 = make.norm(filters)
        self.act2 = make.act()
        self.se = make.squeeze_excite(filters, block.se_filters)
        self.conv_pwl = make.conv(filters, block.out_filters)
        self.bn3 = make.norm(block.out_filters)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv_pw(x)))
        x = self.act2(self.bn2(self.conv_dw(x)))
        x = self.se(x)
        x = self.bn3(self.conv_pwl(x))
        return self.add_skip(x, shortcut)


class SeparableConv(Block):
    """MBConv with expansion 1, which has no expand convolution."""

    PATH = ("conv_dw", "bn1", "act1", "se", "conv_pw", "bn2")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        filters = block.in_filters
        self.conv_dw = _spatial_conv(make, block, filters, filters, groups=filters)
        self.bn1 = make.norm(filters)
        self.act1 = make.act()
        self.se = make.squeeze_excite(filters, block.se_filters)
        self.conv_pw = make.conv(filters, block.out_filters)
        self.bn2 = make.norm(block.out_filters)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv_dw(x)))
        x = self.se(x)
        x = self.bn2(self.conv_pw(x))
        return self.add_skip(x, shortcut)


class FusedMBConv(Block):
    """Expand and depthwise convolution fused into one dense convolution; project without activation."""

    PATH = ("conv_exp", "bn1", "act1", "conv_pwl", "bn2")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        self.conv_exp = _spatial_conv(make, block, block.in_filters, block.mid_filters)
        self.bn1 = make.norm(block.mid_filters)
        self.act1 = make.act()
        self.conv_pwl = make.conv(block.mid_filters, block.out_filters)
        self.bn2 = make.norm(block.out_filters)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv_exp(x)))
        x = self.bn2(self.conv_pwl(x))
        return self.add_skip(x, shortcut)


class ConvBlock(Block):
    """Fused-MBConv with expansion 1, which has no projection: one convolution with activation."""

    PATH = ("conv", "bn1", "act1")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        self.conv = _spatial_conv(make, block, block.in_filters, block.out_filters)
        self.bn1 = make.norm(block.out_filters)
        self.act1 = make.act()

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv(x)))
        return self.add_skip(x, shortcut)


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
