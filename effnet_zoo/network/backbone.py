"""Stem and stages, and the levels of the feature pyramid they give: what a classifier and a pyramid have in common."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effnet_zoo.arch.notation import is_whole
from effnet_zoo.arch.spec import MIN_SIZE, ArchSpec
from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.network.blocks import Layers, Stage
from effnet_zoo.network.options import check_arch, check_place, check_whole_option


class Backbone(nn.Module):
    """Stem and stages, with what a classifier and a feature pyramid have in common.

    Attributes:
        arch: The spec it was built from.
        in_chans: Channels of the image.
        output_stride: Where strides end if they are not to go as far as they do; None if they are.
        pretrained_cfg: What timm and the registry know of the checkpoint; empty for a model of your own spec.
        default_cfg: The same, as timm called it.
        pretrained_model_args: How the checkpoint's model was built, if timm read that from its config.
        load_report: What became of every tensor of the checkpoint (`LoadReport`); None without one.
        origin: Which weights it was made with (`Origin`); None for a model of your own spec.
        levels: One dict for each level of the feature pyramid, fine to coarse: ``module`` (its name), ``stage`` (0 is
            the stem, n the n-th stage), ``num_chs`` (filters) and ``reduction`` (stride).
    """

    def __init__(
        self,
        arch: ArchSpec,
        *,
        in_chans: int,
        output_stride: int | None,
        num_stages: int | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        check_arch(arch)
        check_whole_option("in_chans", in_chans, least=1)
        check_place(device, dtype)
        make = Layers(arch, device, dtype)
        stages = arch.blocks(output_stride=output_stride)[:num_stages]
        self.arch = arch
        self.in_chans = in_chans
        self.output_stride = output_stride
        self.levels = feature_levels(arch, output_stride=output_stride)
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg: dict[str, Any] = {}
        self.pretrained_model_args: dict[str, Any] = {}
        self.load_report: Any = None
        self.origin: Any = None
        self._frozen: tuple[str, ...] = ()
        self.conv_stem = make.conv(in_chans, arch.stem_filters, 3, stride=2)
        self.bn1 = make.norm(arch.stem_filters)
        self.act1 = make.act()
        self.blocks = nn.Sequential(*(Stage(stage, make) for stage in stages))

    def forward_stem(self, x: Tensor) -> Tensor:
        """Image to (batch, stem_filters, ceil(height / 2), ceil(width / 2)); on a CPU in channels_last layout.

        Raises:
            InputError: If x is not a tensor of the model's dtype (any floating point under autocast), has the wrong
                number of dimensions or channels, or is smaller than 32 pixels.
        """
        if not torch.jit.is_scripting():
            self._check_image(x)
        if x.device.type == "cpu":
            # Processors convolve fastest with channels last, and every map follows the image's layout.
            x = x.clone(memory_format=torch.channels_last)
        return self.act1(self.bn1(self.conv_stem(x)))

    @torch.jit.unused
    def _check_image(self, x: Tensor) -> None:
        # A trace would turn the comparisons into constants, and warn about it.
        if torch.jit.is_tracing():
            return
        if not isinstance(x, Tensor):
            raise InputError(
                f"input of type {type(x).__name__}: expected a torch.Tensor (batch, channels, height, width)"
            )
        self._check_dtype(x)
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise InputError(
                f"input of shape {tuple(x.shape)}: expected (batch, {self.in_chans}, height, width); "
                "for other channels build the model with in_chans"
            )
        if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
            raise InputError(
                f"input of {x.shape[2]}x{x.shape[3]} pixels: expected at least {MIN_SIZE}x{MIN_SIZE}; resize it first"
            )

    @torch.jit.unused
    def _check_dtype(self, x: Tensor) -> None:
        wanted, kind = self.conv_stem.weight.dtype, x.device.type
        if x.dtype == wanted:  # before what torch 2.6 cannot trace
            return
        cast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.is_floating_point()
        if not cast:
            raise InputError(
                f"input of {x.dtype}: expected the model's {wanted}; pixels are scaled and normalised first, as "
                "effnet_zoo.eval_transform does"
            )

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: keep only each block's input and run the block again in backward.

        Gradients are those of the plain run, and batch norm statistics move once a step.
        """
        self.grad_checkpointing = enable
        for stage in self.blocks:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def freeze(self, stages: int | None = None) -> None:
        """Stop training the stem and the first `stages` stages (all by default; a classifier's head stays trainable).

        Their parameters get no gradient, and they stay in eval mode through `train()`, so that batch norm statistics
        do not drift and no path is dropped.

        Raises:
            ArgumentError: If there are not that many stages.
        """
        count = len(self.blocks)
        if stages is not None and (not is_whole(stages) or stages > count):
            raise ArgumentError(f"stages={quoted(stages)}: expected a number from 0 (the stem only) to {count}")
        self.unfreeze()
        last = count if stages is None else stages
        self._frozen = ("conv_stem", "bn1", *(f"blocks.{index}" for index in range(last)))
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def unfreeze(self) -> None:
        """Undo `freeze`."""
        for name in self._frozen:
            self.get_submodule(name).requires_grad_(True)
        self._frozen = ()
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self


def feature_levels(arch: ArchSpec, *, output_stride: int | None) -> list[dict[str, Any]]:
    """The levels of a network's feature pyramid; see `Backbone`. A level ends where the next stage halves the map."""
    levels: list[dict[str, Any]] = []
    if arch.stages[0].stride == 2:
        levels.append({"module": "act1", "stage": 0, "num_chs": arch.stem_filters, "reduction": 2})
    reduction = 2
    for number, blocks in enumerate(arch.blocks(output_stride=output_stride), start=1):
        reduction *= math.prod(block.stride for block in blocks)
        if number == len(arch.stages) or arch.stages[number].stride == 2:
            levels.append(
                {
                    "module": f"blocks.{number - 1}",
                    "stage": number,
                    "num_chs": blocks[-1].out_filters,
                    "reduction": reduction,
                }
            )
    return levels


def take_levels(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """The wanted of `count` levels, ascending: all for None, the last n for an int, else those named.

    Raises:
        ArgumentError: If none is wanted or one does not exist.
    """
    if indices is None:
        return list(range(count))
    if is_whole(indices) and 1 <= indices <= count:
        return list(range(count - indices, count))
    taken = list(indices) if isinstance(indices, Sequence) and not isinstance(indices, str) else []
    if not taken or not all(isinstance(index, int) and -count <= index < count for index in taken):
        raise ArgumentError(
            f"levels {quoted(taken or indices)}: expected some of 0 to {count - 1}, or negative from the end"
        )
    return sorted({index % count for index in taken})


def init_weights(module: nn.Module) -> None:
    """Draw weights as the reference code does (efficientnet_model.py in tensorflow/tpu).

    Convolutions are normal with variance 2 / fan-out per group, the classifier uniform within 1 / sqrt(classes). On the
    meta device there is nothing to draw, which torch would take seconds to do.
    """
    if any(parameter.is_meta for parameter in module.parameters()):
        return
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.out_features)
            nn.init.uniform_(layer.weight, -bound, bound)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
