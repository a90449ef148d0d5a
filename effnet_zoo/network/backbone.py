"""Stem and stages: the part that a classifier and a feature pyramid have in common."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from effnet_zoo.arch.checks import is_whole
from effnet_zoo.arch.spec import MIN_SIZE, ArchSpec
from effnet_zoo.errors import ArgumentError, InputError, quoted
from effnet_zoo.network.layers import Layers, Stage
from effnet_zoo.network.options import check

Level = dict[str, Any]
"""One level: ``index`` (0 is the finest), ``module`` (the name of the module that gives it), ``stage`` (0 is the stem,
n the n-th stage), ``num_chs`` (channels) and ``reduction`` (stride)."""


class FeatureInfo(list[Level]):
    """All levels of a network's feature pyramid, fine to coarse, with the methods of timm's ``feature_info``.

    The model returns the levels `out_indices`.
    """

    def __init__(self, levels: Iterable[Level], out_indices: Sequence[int]) -> None:
        super().__init__(levels)
        self.out_indices = tuple(out_indices)

    @property
    def info(self) -> list[Level]:
        """All levels."""
        return list(self)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return one entry of the levels that the model returns, of the level `idx`, or of several levels."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[index][key] for index in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """Return some entries (all by default) of the levels that `get` would look at."""
        if isinstance(idx, int):
            return {key: value for key, value in self[idx].items() if keys is None or key in keys}
        return [self.get_dicts(keys, index) for index in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("module", idx)


def feature_levels(arch: ArchSpec, *, output_stride: int | None) -> list[Level]:
    """Return the levels of a network: the last map before each stage that halves it, and the last of all."""
    levels: list[Level] = [{"module": "act1", "stage": 0, "num_chs": arch.stem_filters, "reduction": 2}]
    for index, blocks in enumerate(arch.blocks(output_stride=output_stride)):
        level = {"module": f"blocks.{index}", "stage": index + 1, "num_chs": blocks[-1].out_filters}
        level["reduction"] = levels[-1]["reduction"] * math.prod(block.stride for block in blocks)
        levels = [*(levels if arch.stages[index].stride == 2 else levels[:-1]), level]
    return [{"index": index, **level} for index, level in enumerate(levels)]


def take_levels(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Return the wanted of `count` levels, ascending: all for None, the last n for a number n, else the ones listed."""
    if indices is None:
        return list(range(count))
    if is_whole(indices, least=1) and indices <= count:
        return list(range(count - indices, count))
    taken = list(indices) if isinstance(indices, Sequence) and not isinstance(indices, str) else []
    if not taken or not all(isinstance(index, int) and -count <= index < count for index in taken):
        found = quoted(taken or indices)
        raise ArgumentError(f"levels {found}: expected some of 0 to {count - 1}; negative numbers count from the end")
    return sorted({index % count for index in taken})


class Backbone(nn.Module):
    """Stem and stages of an `ArchSpec`.

    Attributes:
        arch: The architecture that the network was built from.
        in_chans: Channels of the image.
        output_stride: 8, 16 or 32 if strides beyond it became dilation; None if all strides are as declared.
        feature_info: The levels of the feature pyramid.
        pretrained_cfg: timm's description of the checkpoint; empty for an `ArchSpec` of your own.
        default_cfg: timm's older name for it.
        pretrained_model_args: The options that timm read from a saved ``config.json``.
        load_report: The `LoadReport`: what became of each tensor of the checkpoint; None without a checkpoint.
        origin: The `Origin` of the weights; None for an `ArchSpec` of your own.
    """

    def __init__(
        self, make: Layers, in_chans: int, output_stride: int | None, out_indices: int | Sequence[int] | None = None
    ) -> None:
        """Build the network; with `out_indices`, only the stages that these levels need."""
        super().__init__()
        check(in_chans=in_chans)
        arch = make.arch
        levels = feature_levels(arch, output_stride=output_stride)
        taken = take_levels(out_indices, len(levels))
        last = len(arch.stages) if out_indices is None else levels[taken[-1]]["stage"]
        self.arch = arch
        self.in_chans = in_chans
        self.output_stride = output_stride
        self.feature_info = FeatureInfo(levels, taken)
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
        stages = arch.blocks(output_stride=output_stride)[:last]
        self.blocks = nn.Sequential(*(Stage(blocks, make) for blocks in stages))

    def forward_stem(self, x: Tensor) -> Tensor:
        """Return the stem's map, (batch, stem_filters, height / 2, width / 2) rounded up; on a CPU in channels_last.

        Raises:
            InputError: If x is no batch of images of the model's channels and dtype (under autocast any floating point)
                of at least 32 pixels.
        """
        if not torch.jit.is_scripting():
            self._check_image(x)
        if x.device.type == "cpu":
            # Processors convolve fastest with channels last, and every map follows the image's layout.
            x = x.clone(memory_format=torch.channels_last)
        return self.act1(self.bn1(self.conv_stem(x)))

    def forward_stages(self, x: Tensor, wanted: list[int], last: int) -> tuple[Tensor, list[Tensor]]:
        """Return the map of the stage `last`, and the maps of the stages `wanted` up to it; 0 stands for the stem."""
        x = self.forward_stem(x)
        maps = [x] if 0 in wanted else []
        for index, stage in enumerate(self.blocks):
            if index < last:
                x = stage(x)
                if index + 1 in wanted:
                    maps.append(x)
        return x, maps

    @torch.jit.unused
    def _check_image(self, x: Tensor) -> None:
        # A trace would turn the comparisons into constants, and warn about it.
        if torch.jit.is_tracing():
            return
        if not isinstance(x, Tensor):
            raise InputError(f"input of type {type(x).__name__}: expected a torch.Tensor, a batch of images")
        wanted, kind = self.conv_stem.weight.dtype, x.device.type
        # Equal dtypes first, because torch 2.6 cannot trace the question about autocast.
        if x.dtype != wanted and not (
            torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind) and x.is_floating_point()
        ):
            advice = "scale and normalise the pixels first, as effnet_zoo.eval_transform does"
            raise InputError(f"input of {x.dtype}: expected the model's {wanted}: {advice}")
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise InputError(
                f"input of shape {tuple(x.shape)}: expected (batch, {self.in_chans}, height, width); "
                "for other channels build the model with in_chans"
            )
        if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
            found = f"{x.shape[2]}x{x.shape[3]}"
            raise InputError(f"input of {found} pixels: expected at least {MIN_SIZE}x{MIN_SIZE}; resize it first")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Trade time for memory in training: keep only each block's input, and run the block again in backward.

        Gradients are those of the plain run, and batch norm statistics move once a step.
        """
        self.grad_checkpointing = enable
        for stage in self.blocks:
            assert isinstance(stage, Stage)
            stage.grad_checkpointing = enable

    def freeze(self, stages: int | None = None) -> None:
        """Stop training the stem and the first `stages` stages (by default all). A classifier's head stays trainable.

        The frozen parameters get no gradient. The frozen modules stay in eval mode through `train()`, so that batch
        norm statistics do not drift and no path is dropped.
        """
        count = len(self.blocks)
        if stages is not None and (not is_whole(stages) or stages > count):
            raise ArgumentError(f"stages={quoted(stages)}: expected a number from 0 (the stem only) to {count}")
        last = count if stages is None else stages
        self._freeze_only("conv_stem", "bn1", *(f"blocks.{index}" for index in range(last)))

    def unfreeze(self) -> None:
        """Undo `freeze`."""
        self._freeze_only()

    def _freeze_only(self, *names: str) -> None:
        for name in {*self._frozen, *names}:
            self.get_submodule(name).requires_grad_(name not in names)
        self._frozen = names
        self.train(self.training)

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for name in self._frozen:
            self.get_submodule(name).eval()
        return self


def init_weights(module: nn.Module) -> None:
    """Draw weights as the reference code does (efficientnet_model.py in tensorflow/tpu).

    Convolutions are normal with variance 2 / fan-out per group, the classifier is uniform within 1 / sqrt(classes),
    biases are zero. A module on the meta device has no values; it is left as it is, which saves seconds.
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
