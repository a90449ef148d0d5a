"""The layers, blocks and stages that networks are built from.

All maps are (batch, channels, height, width) floats. PyTorch is the only library here, which keeps the import quick.
Module names are timm's (``conv_pw``, ``bn1``, ``conv_dw``, ``se.conv_reduce``, ...), so that checkpoints move between
the two libraries with plain `load_state_dict`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from effnet_zoo.arch.blocks import BlockSpec
from effnet_zoo.arch.families import Activation
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.network.options import check

ACTIVATION_LAYERS: dict[Activation, type[nn.Module]] = {"silu": nn.SiLU, "relu": nn.ReLU, "relu6": nn.ReLU6}


class SameConv2d(nn.Conv2d):
    """A stride-2 convolution padded as TensorFlow's SAME: the output has ceil(input / 2) rows and columns.

    TensorFlow centres a kernel of reach r on odd sizes and shifts it by one on even sizes, where it pads r - 1 rows
    before the image and r after it. Here the image always gets r rows all around, because `nn.Conv2d` adds these
    without a copy. On even sizes the kernel moves instead: a row of zeros before its first row lets it end one row
    later. At stride 1, SAME padding is r all around on every size, so that `nn.Conv2d` is enough.
    """

    def forward(self, x: Tensor) -> Tensor:
        even_h, even_w = 1 - x.shape[2] % 2, 1 - x.shape[3] % 2
        if torch.jit.is_scripting() or torch.jit.is_tracing() or torch.compiler.is_compiling():
            # Exporters cannot follow a kernel whose size depends on the image's, and compilers fuse the padding anyway.
            # The padded size is the input's plus 2 r on every size, and one row of zeros is never read.
            reach_h, reach_w = self.kernel_size[0] // 2, self.kernel_size[1] // 2
            x = F.pad(x, [reach_w - even_w, reach_w + even_w, reach_h - even_h, reach_h + even_h])
            return F.conv2d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)
        return self._conv_forward(x, F.pad(self.weight, [even_w, 0, even_h, 0]), self.bias)


class PooledConv2d(nn.Conv2d):
    """A 1x1 convolution of a 1x1 map, computed as a matrix product, which has less overhead than a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.flatten(1), self.weight.flatten(1), self.bias).unsqueeze(-1).unsqueeze(-1)


class SqueezeExcite(nn.Module):
    """Channel attention (arXiv:1709.01507): pool, reduce, expand, sigmoid, scale.

    In float16 the mean over height and width is summed in float32: the sum over a 32x32 map of activations around 100
    already exceeds float16's largest number, 65504. If `inplace`, the map is overwritten where no gradient is needed.
    """

    def __init__(self, filters: int, squeezed: int, make: "Layers") -> None:
        super().__init__()
        self.conv_reduce = PooledConv2d(filters, squeezed, 1, **make.place)
        self.act1 = make.act(inplace=False)  # on a view, which TorchScript cannot always overwrite
        self.conv_expand = PooledConv2d(squeezed, filters, 1, **make.place)
        self.gate = nn.Sigmoid()
        self.inplace = False

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == torch.float16:
            pooled = x.mean([2, 3], keepdim=True, dtype=torch.float32).to(x.dtype)
        else:
            pooled = x.mean([2, 3], keepdim=True)
        gate = self.gate(self.conv_expand(self.act1(self.conv_reduce(pooled))))
        return x.mul_(gate) if self.inplace and not x.requires_grad else x * gate


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training, set a sample's map to zero with probability `drop_prob`.

    The maps that stay are divided by 1 - drop_prob, which keeps the expected value.
    """

    def __init__(self, drop_prob: float) -> None:
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.drop_prob == 0:
            return x
        keep_prob = 1 - self.drop_prob
        kept = x.new_empty([x.shape[0], 1, 1, 1]).bernoulli_(keep_prob)
        return x * (kept / keep_prob if keep_prob > 0 else kept)

    def extra_repr(self) -> str:
        return f"drop_prob={self.drop_prob:.3f}"


class GlobalPool(nn.Module):
    """Pool (batch, channels, height, width) to (batch, features); with pool_type ``""`` return the map as it is.

    A pool_type is ``avg``, ``max``, ``avgmax`` (the mean of the two), ``catavgmax`` (both, twice as many features), or
    ``""``. All names are those of timm's pooling layer.
    """

    def __init__(self, pool_type: str) -> None:
        super().__init__()
        self.pool_type = pool_type
        self.flatten = nn.Flatten(1) if pool_type else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.pool_type == "avg":
            x = F.adaptive_avg_pool2d(x, 1)
        elif self.pool_type == "max":
            x = F.adaptive_max_pool2d(x, 1)
        elif self.pool_type == "avgmax":
            x = 0.5 * (F.adaptive_avg_pool2d(x, 1) + F.adaptive_max_pool2d(x, 1))
        elif self.pool_type == "catavgmax":
            x = torch.cat([F.adaptive_avg_pool2d(x, 1), F.adaptive_max_pool2d(x, 1)], 1)
        return self.flatten(x)

    def feat_mult(self) -> int:
        """Return how many features each channel becomes."""
        return 2 if self.pool_type == "catavgmax" else 1

    def is_identity(self) -> bool:
        """Return whether nothing is pooled."""
        return not self.pool_type

    def extra_repr(self) -> str:
        return f"pool_type={self.pool_type!r}"


class Layers:
    """Make the layers of one network: with the numerics of its `ArchSpec`, on one device and in one dtype."""

    def __init__(self, arch: ArchSpec, device: torch.device | str | None, dtype: torch.dtype | None) -> None:
        check(arch=arch, dtype=dtype, device=device)
        self.arch = arch
        self.place: dict[str, Any] = {"device": device, "dtype": dtype}

    def conv(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1
    ) -> nn.Conv2d:
        layer = SameConv2d if self.arch.padding == "same" and stride == 2 and kernel > 1 else nn.Conv2d
        padding = dilation * (kernel // 2)
        return layer(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False, **self.place)

    def spatial_conv(self, block: BlockSpec, inputs: int, outputs: int, *, groups: int = 1) -> nn.Conv2d:
        """Make the one convolution of a block that sees neighbouring pixels."""
        return self.conv(inputs, outputs, block.kernel, stride=block.stride, dilation=block.dilation, groups=groups)

    def norm(self, filters: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(filters, self.arch.bn_eps, self.arch.bn_momentum, **self.place)

    def act(self, *, inplace: bool = True) -> nn.Module:
        return ACTIVATION_LAYERS[self.arch.activation](inplace=inplace)

    def squeeze_excite(self, filters: int, squeezed: int) -> nn.Module:
        return SqueezeExcite(filters, squeezed, self) if squeezed else nn.Identity()


class Block(nn.Sequential):
    """Layers in a row, by name.

    `skip` adds the input to the output; with `inplace`, in place where no gradient is needed.
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
            conv_dw=make.spatial_conv(block, filters, filters, groups=filters),
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
            conv_dw=make.spatial_conv(block, filters, filters, groups=filters),
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


BLOCK_CLASSES = {"mbconv": MBConv, "separable": SeparableConv, "fused": FusedMBConv, "conv": ConvBlock}


class Stage(nn.Sequential):
    """Blocks in a row. With `grad_checkpointing`, backward runs each block again instead of keeping its activations."""

    def __init__(self, blocks: Iterable[BlockSpec], make: Layers) -> None:
        super().__init__(*(BLOCK_CLASSES[block.kind](block, make) for block in blocks))
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
    return checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _statistics_kept(block)))


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let batch norm move copies of its statistics, and put the originals back."""
    norms = [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]
    kept = [(norm, name, buffer) for norm in norms for name, buffer in norm.named_buffers()]
    for norm, name, buffer in kept:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in kept:
            setattr(norm, name, buffer)
