"""EfficientNet: stem, blocks and head of an `ArchSpec`, with timm's model contract.

Shapes: images are (batch, in_chans, height, width), height and width at least 32 and otherwise free. A feature map at
stride s has ceil(height / s) x ceil(width / s) cells. Logits are (batch, num_classes).
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict, Unpack, get_type_hints

import torch
from timm.layers import SelectAdaptivePool2d
from timm.models import FeatureInfo
from torch import Tensor, nn

from effnet_zoo.blocks import Layers, Stage
from effnet_zoo.errors import ArgumentError, InputError, did_you_mean
from effnet_zoo.families import Activation, Padding
from effnet_zoo.spec import MIN_SIZE, ArchSpec

GLOBAL_POOLS = ("avg", "max", "avgmax", "catavgmax", "")

RENAMED = {
    "in_channels": "in_chans",
    "include_top": "num_classes=0",
    "dropout_rate": "drop_rate",
    "drop_connect_rate": "drop_path_rate",
    "batch_norm_epsilon": "bn_eps",
    "batch_norm_momentum": "bn_momentum (PyTorch's sense: 1 - TensorFlow's)",
    "pad_type": "padding",
    "activation": "act_layer",
}
"""What other libraries call an option, and what it is called here."""


class BuildOptions(TypedDict, total=False):
    """Keywords of every function that builds a classifier; what is left out is as the architecture declares it.

    Keys:
        num_classes: Classes; 0 for pooled features instead of logits.
        in_chans: Channels of the image.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for none (with num_classes=0).
        drop_rate: Dropout rate in front of the classifier.
        drop_path_rate: Stochastic depth rate.
        output_stride: 8, 16 or 32; strides beyond it become dilation.
        padding: ``same`` or ``symmetric``.
        bn_eps: Batch norm epsilon.
        bn_momentum: Batch norm momentum in PyTorch's sense.
        act_layer: ``silu``, ``relu`` or ``relu6``.
        device: Where to build; ``meta`` allocates nothing.
        dtype: Of parameters and buffers.
    """

    num_classes: int
    in_chans: int
    global_pool: str
    drop_rate: float
    drop_path_rate: float
    output_stride: int
    padding: Padding
    bn_eps: float
    bn_momentum: float
    act_layer: Activation
    device: torch.device | str | None
    dtype: torch.dtype | None


class ModelOptions(BuildOptions, total=False):
    """`BuildOptions`, and two for a feature pyramid instead of a classifier.

    Keys:
        features_only: Build an `EfficientNetFeatures`. It has no head, which num_classes, global_pool and drop_rate
            are about: with features_only they mean nothing, as in timm.
        out_indices: Its levels; see there.
    """

    features_only: bool
    out_indices: Sequence[int]


class Backbone(nn.Module):
    """Stem and stages, with what a classifier and a feature pyramid have in common.

    Attributes:
        arch: The spec it was built from.
        in_chans: Channels of the image.
        pretrained_cfg: What timm and the registry know of the checkpoint; empty for a model of your own spec.
        default_cfg: The same, as timm called it.
        pretrained_model_args: How the checkpoint's model was built, if timm read that from its config.
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
        make: Layers,
    ) -> None:
        super().__init__()
        if isinstance(in_chans, bool) or not isinstance(in_chans, int) or in_chans < 1:
            raise ArgumentError(f"in_chans={in_chans!r}: expected a whole number of at least 1")
        stages = arch.blocks(output_stride=output_stride)[:num_stages]
        self.arch = arch
        self.in_chans = in_chans
        self.levels = feature_levels(arch, output_stride=output_stride)
        self.grad_checkpointing = False
        self.pretrained_cfg: dict[str, Any] = {}
        self.default_cfg: dict[str, Any] = {}
        self.pretrained_model_args: dict[str, Any] = {}
        self._frozen: tuple[str, ...] = ()
        self.conv_stem = make.conv(in_chans, arch.stem_filters, 3, stride=2)
        self.bn1 = make.norm(arch.stem_filters)
        self.act1 = make.act()
        self.blocks = nn.Sequential(*(Stage(stage, make) for stage in stages))

    def forward_stem(self, x: Tensor) -> Tensor:
        """Image to (batch, stem_filters, ceil(height / 2), ceil(width / 2)).

        Raises:
            InputError: If x has the wrong number of dimensions or channels, or is smaller than 32 pixels.
        """
        if not torch.jit.is_scripting():
            self._check_image(x)
        return self.act1(self.bn1(self.conv_stem(x)))

    @torch.jit.unused
    def _check_image(self, x: Tensor) -> None:
        # A trace would turn the comparisons into constants, and warn about it.
        if torch.jit.is_tracing():
            return
        if x.dim() != 4 or x.shape[1] != self.in_chans:
            raise InputError(
                f"input of shape {tuple(x.shape)}: expected (batch, {self.in_chans}, height, width); "
                "for other channels build the model with in_chans"
            )
        if x.shape[2] < MIN_SIZE or x.shape[3] < MIN_SIZE:
            raise InputError(
                f"input of {x.shape[2]}x{x.shape[3]} pixels: expected at least {MIN_SIZE}x{MIN_SIZE}; resize it first"
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
        if stages is not None and (isinstance(stages, bool) or not 0 <= stages <= count):
            raise ArgumentError(f"stages={stages!r}: expected a number from 0 (the stem only) to {count}")
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


class EfficientNet(Backbone):
    """An image classifier built from an `ArchSpec`.

    Args:
        arch: What to build; `ArchSpec.from_blocks` and `ArchSpec.from_rows` read your own notation.
        num_classes: Classes; 0 for pooled features instead of logits.
        in_chans: Channels of the image.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for none (with num_classes=0).
        output_stride: 8, 16 or 32 if the strides are not to go as far as they do.
        device: Where to build.
        dtype: Of parameters and buffers.

    Raises:
        ArgumentError: If a value is outside what is listed.
        SpecError: If output_stride is.
    """

    def __init__(
        self,
        arch: ArchSpec,
        *,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        output_stride: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        make = Layers(arch, device, dtype)
        super().__init__(arch, in_chans=in_chans, output_stride=output_stride, num_stages=None, make=make)
        self.feature_info = self.levels
        self.num_features = arch.head_filters
        self.drop_rate = arch.drop_rate
        self.conv_head = make.conv(arch.stages[-1].out_filters, arch.head_filters, 1)
        self.bn2 = make.norm(arch.head_filters)
        self.act2 = make.act()
        self.head_drop = nn.Dropout(arch.drop_rate)
        self._set_classifier(num_classes, global_pool)
        init_weights(self)

    @classmethod
    def from_name(cls, name: str, **options: Unpack[BuildOptions]) -> "EfficientNet":
        """A model with random weights by any of its names: ``efficientnet-b3``, ``efficientnet_b3``, ``effnet_zoo_b3``.

        Raises:
            UnknownNameError: If there is no such model.
            ArgumentError: If an option does not exist or its value cannot be used.
        """
        from effnet_zoo import registry  # the registry builds these models; only their users' way in is here

        return registry.create_classifier(name, **options)

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        weights_path: str | None = None,
        *,
        advprop: bool = False,
        tag: str | None = None,
        **options: Unpack[BuildOptions],
    ) -> "EfficientNet":
        """A model with weights: the variant's default checkpoint, that of a tag, or a local file.

        Args:
            name: As in `from_name`; a tag may follow a dot.
            weights_path: A ``.safetensors`` or ``.pth`` file with this package's, timm's, efficientnet_pytorch's or
                torchvision's keys.
            advprop: Take the AdvProp checkpoint, tag ``ap_in1k``.
            tag: Take the checkpoint of this tag.
            options: As in `from_name`. Another num_classes than the checkpoint's asks for a new, random classifier.

        Raises:
            UnknownNameError: If there is no such model or tag.
            ArgumentError: If more than one of weights_path, advprop and tag is given.
            WeightsError: If the weights cannot be had or do not fit.
        """
        from effnet_zoo import registry

        return registry.create_pretrained_classifier(name, weights_path, advprop=advprop, tag=tag, **options)

    @classmethod
    def get_image_size(cls, name: str) -> int:
        """The side in pixels of the square input a variant is meant for.

        Raises:
            UnknownNameError: If there is no such model.
        """
        from effnet_zoo import catalog

        return catalog.find_variant(name).spec.image_size

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Image to the map after the head convolution, (batch, num_features, height / 32, width / 32) rounded up."""
        return self._head(self.blocks(self.forward_stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The map of `forward_features` to logits, or with `pre_logits` to (batch, head_hidden_size).

        float16 maps are pooled in float32, for the reason given at `SqueezeExcite`.
        """
        if x.dtype == torch.float16:
            x = self.global_pool(x.float()).to(x.dtype)
        else:
            x = self.global_pool(x)
        x = self.head_drop(x)
        return x if pre_logits else self.classifier(x)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,  # noqa: ARG002  # timm's signature
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
        return_logits: bool = False,
    ) -> Any:
        """The feature pyramid, the head's map and, if asked, the logits in one pass.

        Args:
            x: Images.
            indices: Levels of `feature_info`: a sequence (negative counts from the end), the last n, or None for all.
            norm: Accepted for timm's sake; the maps need none.
            stop_early: Do not run what no wanted level needs; the head's map is then the last stage's that ran.
            output_fmt: ``NCHW``, the only one.
            intermediates_only: Return only the list of maps.
            return_logits: Return also the logits, as third.

        Returns:
            ``(map, [level, ...])``, ``[level, ...]``, or ``(map, [level, ...], logits)``.

        Raises:
            ArgumentError: If an index does not exist, or logits are asked of a run that does not reach them.
        """
        if output_fmt != "NCHW":
            raise ArgumentError(f"output_fmt={output_fmt!r}: expected 'NCHW'")
        if return_logits and (stop_early or intermediates_only):
            raise ArgumentError("return_logits needs the whole run: leave out stop_early and intermediates_only")
        wanted = {self.levels[index]["stage"] for index in take_levels(indices, len(self.levels))}
        x = self.forward_stem(x)
        maps = [x] if 0 in wanted else []
        for number, stage in enumerate(self.blocks, start=1):
            if stop_early and number > max(wanted):
                return maps if intermediates_only else (x, maps)
            x = stage(x)
            if number in wanted:
                maps.append(x)
        if intermediates_only:
            return maps
        x = self._head(x)
        return (x, maps, self.forward_head(x)) if return_logits else (x, maps)

    def extract_features(self, x: Tensor) -> Tensor:
        """`forward_features`, as efficientnet_pytorch calls it."""
        return self.forward_features(x)

    def extract_endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """The pyramid, ``reduction_1`` (stride 2) to ``reduction_5`` (stride 32), and ``reduction_6`` of the head."""
        x, maps = self.forward_intermediates(x)
        return {f"reduction_{number}": level for number, level in enumerate([*maps, x], start=1)}

    def get_classifier(self) -> nn.Module:
        """The last layer."""
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a random one, and the pooling if named.

        Raises:
            ArgumentError: If num_classes is negative or the pooling unknown.
        """
        self._set_classifier(num_classes, self.global_pool.pool_type if global_pool is None else global_pool)
        init_weights(self.classifier)
        self.train(self.training)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Regular expressions that group parameters by depth, for timm's layer-wise learning rates."""
        return {
            "stem": r"^conv_stem|bn1",
            "blocks": [
                (r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)", None),
                (r"conv_head|bn2", (99999,)),  # after every block, whatever their number
            ],
        }

    def _head(self, x: Tensor) -> Tensor:
        return self.act2(self.bn2(self.conv_head(x)))

    def _set_classifier(self, num_classes: int, global_pool: str) -> None:
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 0:
            raise ArgumentError(f"num_classes={num_classes!r}: expected a whole number of at least 0")
        if global_pool not in GLOBAL_POOLS:
            raise ArgumentError(f"global_pool={global_pool!r}: expected one of {', '.join(map(repr, GLOBAL_POOLS))}")
        if not global_pool and num_classes:
            raise ArgumentError(f"global_pool='' with num_classes={num_classes}: a classifier needs pooled features")
        weight = self.conv_head.weight
        self.num_classes = num_classes
        self.global_pool = SelectAdaptivePool2d(pool_type=global_pool, flatten=bool(global_pool))
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.classifier: nn.Module = (
            nn.Linear(self.head_hidden_size, num_classes, device=weight.device, dtype=weight.dtype)
            if num_classes
            else nn.Identity()
        )


class EfficientNetFeatures(Backbone):
    """A feature pyramid: images to a list of maps, fine to coarse. Stages that no map needs are not built.

    Args:
        arch: What to build.
        out_indices: Levels, from 0 (stride 2) to 4 (stride 32); negative counts from the end.
        in_chans: Channels of the image.
        output_stride: 8, 16 or 32 if the strides are not to go as far as they do.
        device: Where to build.
        dtype: Of parameters and buffers.

    Raises:
        ArgumentError: If a level does not exist.
    """

    def __init__(
        self,
        arch: ArchSpec,
        *,
        out_indices: Sequence[int] = (0, 1, 2, 3, 4),
        in_chans: int = 3,
        output_stride: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        levels = feature_levels(arch, output_stride=output_stride)
        indices = take_levels(out_indices, len(levels))
        self_stages = tuple(levels[index]["stage"] for index in indices)
        super().__init__(
            arch,
            in_chans=in_chans,
            output_stride=output_stride,
            num_stages=max(self_stages),
            make=Layers(arch, device, dtype),
        )
        self.feature_info = FeatureInfo(self.levels, tuple(indices))
        self._out_stages = self_stages
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images to the maps of `out_indices`, map i being (batch, channels[i], height / s, width / s) rounded up."""
        x = self.forward_stem(x)
        maps = [x] if 0 in self._out_stages else []
        for index, stage in enumerate(self.blocks):
            x = stage(x)
            if index + 1 in self._out_stages:
                maps.append(x)
        return maps


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
    if isinstance(indices, int):
        indices = range(-indices, 0)
    taken = [index + count if index < 0 else index for index in indices]
    if not taken or any(not 0 <= index < count for index in taken):
        raise ArgumentError(f"levels {list(indices)}: expected some of 0 to {count - 1}, or negative from the end")
    return sorted(set(taken))


def init_weights(module: nn.Module) -> None:
    """Draw weights as the reference code does (efficientnet_model.py in tensorflow/tpu).

    Convolutions are normal with variance 2 / fan-out per group, the classifier uniform within 1 / sqrt(classes).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            fan_out = math.prod(layer.kernel_size) * layer.out_channels // layer.groups
            nn.init.normal_(layer.weight, 0, math.sqrt(2 / fan_out))
        elif isinstance(layer, nn.Linear):
            bound = 1 / math.sqrt(layer.out_features)
            nn.init.uniform_(layer.weight, -bound, bound)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


def check_options(options: Iterable[str], known: type) -> None:
    """Refuse keywords that are not keys of `known`.

    Raises:
        ArgumentError: Naming the keyword and the nearest one.
    """
    names = list(get_type_hints(known))
    for name in options:
        if name not in names:
            hint = f" Here it is called {RENAMED[name]}." if name in RENAMED else did_you_mean(name, names)
            raise ArgumentError(f"unknown keyword {name!r}: expected some of {', '.join(names)}.{hint}")


def build_model(arch: ArchSpec, **options: Unpack[ModelOptions]) -> "EfficientNet | EfficientNetFeatures":
    """A model with random weights, the architecture's numerics replaced where options say so.

    Raises:
        ArgumentError: If an option does not exist or its value cannot be used.
        SpecError: If a numeric is outside its bounds.
    """
    check_options(options, ModelOptions)
    arch = dataclasses.replace(
        arch,
        activation=options.get("act_layer", arch.activation),
        padding=options.get("padding", arch.padding),
        bn_eps=options.get("bn_eps", arch.bn_eps),
        bn_momentum=options.get("bn_momentum", arch.bn_momentum),
        drop_rate=options.get("drop_rate", arch.drop_rate),
        drop_path_rate=options.get("drop_path_rate", arch.drop_path_rate),
    )
    in_chans, output_stride = options.get("in_chans", 3), options.get("output_stride")
    device, dtype = options.get("device"), options.get("dtype")
    if options.get("features_only"):
        return EfficientNetFeatures(
            arch,
            out_indices=options.get("out_indices", (0, 1, 2, 3, 4)),
            in_chans=in_chans,
            output_stride=output_stride,
            device=device,
            dtype=dtype,
        )
    if "out_indices" in options:
        raise ArgumentError("out_indices without features_only=True: it selects levels of a feature pyramid")
    return EfficientNet(
        arch,
        num_classes=options.get("num_classes", 1000),
        in_chans=in_chans,
        global_pool=options.get("global_pool", "avg"),
        output_stride=output_stride,
        device=device,
        dtype=dtype,
    )
