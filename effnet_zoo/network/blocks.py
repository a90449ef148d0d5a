"""The engine: convolution with SAME padding, squeeze-excite, and the four kinds of block.

Module names are timm's (``conv_pw``, ``bn1``, ``conv_dw``, ``se.conv_reduce``, ...), so that checkpoints move between
the two libraries with plain `load_state_dict`. All tensors are (batch, channels, height, width) floats.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import ClassVar

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from effnet_zoo.arch.families import Activation
from effnet_zoo.arch.spec import ArchSpec, BlockKind, BlockSpec

ACTIVATION_LAYERS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "relu6": nn.ReLU6}


class SameConv2d(nn.Conv2d):
    """A stride-2 convolution padded as TensorFlow's SAME: output size ceil(input / 2), any input size.

    TensorFlow centres a kernel of reach r on odd sizes and shifts it by one on even ones: r zeros before the image, or
    r - 1. Here the image always gets r all around, as `nn.Conv2d` gives them without a copy, and on even sizes the
    kernel moves instead: a row of zeros before its first lets it end one further on. (At stride 1 SAME is r anyway.)
    """

    def forward(self, x: Tensor) -> Tensor:
        even_h, even_w = 1 - x.shape[2] % 2, 1 - x.shape[3] % 2
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            # A kernel whose size depends on the image's is more than exporters can reason about; compilers fuse
            # padding anyway. The padded size is the input's plus 2 r whatever its parity: one zero is never read.
            reach_h, reach_w = self.kernel_size[0] // 2, self.kernel_size[1] // 2
            x = F.pad(x, [reach_w - even_w, reach_w + even_w, reach_h - even_h, reach_h + even_h])
            return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return self._conv_forward(x, F.pad(self.weight, [even_w, 0, even_h, 0]), self.bias)


class PooledConv2d(nn.Conv2d):
    """A 1x1 convolution of a 1x1 map: a matrix product, which costs less than a convolution's overhead."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias).unsqueeze(-1).unsqueeze(-1)


class SqueezeExcite(nn.Module):
    """Channel attention (arXiv:1709.01507): pool, reduce, expand, sigmoid, scale.

    The gate sees the mean over height and width. In float16 it is summed in float32: a 32x32 map of activations around
    100 already passes float16's largest number, 65504.

    Attributes:
        inplace: Whether the map may be overwritten where no gradient is asked for, as activations always may.
    """

    def __init__(self, filters: int, squeezed: int, make: "Layers") -> None:
        super().__init__()
        self.conv_reduce = make.pooled_conv(filters, squeezed)
        self.act1 = make.act(inplace=False)  # on a view, which TorchScript cannot always overwrite
        self.conv_expand = make.pooled_conv(squeezed, filters)
        self.gate = nn.Sigmoid()
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float16:
            pooled = x.mean([2, 3], keepdim=True, dtype=torch.float32).to(x.dtype)
        else:
            pooled = x.mean([2, 3], keepdim=True)
        gate = self.gate(self.conv_expand(self.act1(self.conv_reduce(pooled))))
        return x.mul_(gate) if self.inplace and not x.requires_grad else x * gate


class Layers:
    """Makes the layers of one network with that network's numerics, on one device and in one dtype."""

    def __init__(self, arch: ArchSpec, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        self.arch, self.device, self.dtype = arch, device, dtype

    def conv(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        dilation: int = 1,
        depthwise: bool = False,
    ) -> nn.Conv2d:
        shifts_with_size = self.arch.padding == "same" and stride == 2 and kernel > 1
        layer = SameConv2d if shifts_with_size else nn.Conv2d
        return layer(
            inputs,
            outputs,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=inputs if depthwise else 1,
            bias=False,
            device=self.device,
            dtype=self.dtype,
        )

    def pooled_conv(self, inputs: int, outputs: int) -> nn.Conv2d:
        return PooledConv2d(inputs, outputs, 1, device=self.device, dtype=self.dtype)

    def norm(self, filters: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(
            filters, eps=self.arch.bn_eps, momentum=self.arch.bn_momentum, device=self.device, dtype=self.dtype
        )

    def act(self, *, inplace: bool = True) -> nn.Module:
        return ACTIVATION_LAYERS[self.arch.activation](inplace=inplace)

    def se(self, block: BlockSpec) -> nn.Module:
        return SqueezeExcite(block.mid_filters, block.se_filters, self) if block.se_filters else nn.Identity()


class Block(nn.Module):
    """What all kinds share: the residual connection with stochastic depth (arXiv:1603.09382).

    Attributes:
        PATH: The layers of `forward`, in its order, before the residual connection. What writes the network in another
            language reads it; a subclass that defines `forward` defines PATH beside it.
        skip: Whether there is one.
        inplace: Whether it is added in place where no gradient is asked for.
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


class MBConv(Block):
    """Mobile inverted bottleneck: expand, depthwise, squeeze-excite, project without activation."""

    PATH = ("conv_pw", "bn1", "act1", "conv_dw", "bn2", "act2", "se", "conv_pwl", "bn3")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        self.conv_pw = make.conv(block.in_filters, block.mid_filters, 1)
        self.bn1 = make.norm(block.mid_filters)
        self.act1 = make.act()
        self.conv_dw = make.conv(
            block.mid_filters,
            block.mid_filters,
            block.kernel,
            stride=block.stride,
            dilation=block.dilation,
            depthwise=True,
        )
        self.bn2 = make.norm(block.mid_filters)
        self.act2 = make.act()
        self.se = make.se(block)
        self.conv_pwl = make.conv(block.mid_filters, block.out_filters, 1)
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
        self.conv_dw = make.conv(
            block.in_filters,
            block.in_filters,
            block.kernel,
            stride=block.stride,
            dilation=block.dilation,
            depthwise=True,
        )
        self.bn1 = make.norm(block.in_filters)
        self.act1 = make.act()
        self.se = make.se(block)
        self.conv_pw = make.conv(block.in_filters, block.out_filters, 1)
        self.bn2 = make.norm(block.out_filters)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv_dw(x)))
        x = self.se(x)
        x = self.bn2(self.conv_pw(x))
        return self.add_skip(x, shortcut)


class FusedMBConv(Block):
    """Expand and depthwise fused into one dense convolution; project without activation."""

    PATH = ("conv_exp", "bn1", "act1", "conv_pwl", "bn2")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        self.conv_exp = make.conv(
            block.in_filters, block.mid_filters, block.kernel, stride=block.stride, dilation=block.dilation
        )
        self.bn1 = make.norm(block.mid_filters)
        self.act1 = make.act()
        self.conv_pwl = make.conv(block.mid_filters, block.out_filters, 1)
        self.bn2 = make.norm(block.out_filters)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        x = self.act1(self.bn1(self.conv_exp(x)))
        x = self.bn2(self.conv_pwl(x))
        return self.add_skip(x, shortcut)


class ConvBlock(Block):
    """Fused-MBConv with expansion 1: nothing to project, one convolution with activation."""

    PATH = ("conv", "bn1", "act1")

    def __init__(self, block: BlockSpec, make: Layers) -> None:
        super().__init__(block)
        self.conv = make.conv(
            block.in_filters, block.out_filters, block.kernel, stride=block.stride, dilation=block.dilation
        )
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
    """Blocks in a row. With `grad_checkpointing`, backward runs each again instead of keeping its activations."""

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
    """Run a block without keeping its activations; backward runs it again.

    The second run must not count: batch norm would otherwise move its running statistics twice a step.
    """
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
