"""The layers that blocks and heads are built from: convolutions, squeeze-excite, stochastic depth and global pooling.

All maps are (batch, channels, height, width) floats. PyTorch is the only library here, which keeps the import quick.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.arch.blocks import BlockSpec
from effnet_zoo.arch.families import Activation
from effnet_zoo.arch.spec import ArchSpec

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
    already exceeds float16's largest number, 65504.

    Attributes:
        inplace: Whether the map may be overwritten where no gradient is needed.
    """

    def __init__(self, filters: int, squeezed: int, make: "Layers") -> None:
        super().__init__()
        self.conv_reduce = PooledConv2d(filters, squeezed, 1, device=make.device, dtype=make.dtype)
        self.act1 = make.act(inplace=False)  # on a view, which TorchScript cannot always overwrite
        self.conv_expand = PooledConv2d(squeezed, filters, 1, device=make.device, dtype=make.dtype)
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

    Attributes:
        pool_type: ``avg``, ``max``, ``avgmax`` (the mean of the two), ``catavgmax`` (both, twice as many features), or
            ``""``. This name, `flatten`, `feat_mult` and `is_identity` are those of timm's pooling layer.
        flatten: The module that removes height and width.
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
        self.arch, self.device, self.dtype = arch, device, dtype

    def conv(
        self, inputs: int, outputs: int, kernel: int = 1, *, stride: int = 1, dilation: int = 1, groups: int = 1
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
            groups=groups,
            bias=False,
            device=self.device,
            dtype=self.dtype,
        )

    def spatial_conv(self, block: BlockSpec, inputs: int, outputs: int, *, depthwise: bool = False) -> nn.Conv2d:
        """Make the one convolution of a block that sees neighbouring pixels."""
        groups = inputs if depthwise else 1
        return self.conv(inputs, outputs, block.kernel, stride=block.stride, dilation=block.dilation, groups=groups)

    def norm(self, filters: int) -> nn.BatchNorm2d:
        return nn.BatchNorm2d(
            filters, eps=self.arch.bn_eps, momentum=self.arch.bn_momentum, device=self.device, dtype=self.dtype
        )

    def act(self, *, inplace: bool = True) -> nn.Module:
        return ACTIVATION_LAYERS[self.arch.activation](inplace=inplace)

    def squeeze_excite(self, filters: int, squeezed: int) -> nn.Module:
        return SqueezeExcite(filters, squeezed, self) if squeezed else nn.Identity()
