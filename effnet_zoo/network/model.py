"""EfficientNet: stem, blocks and head of an `ArchSpec`, with timm's model contract.

Shapes: images are (batch, in_chans, height, width), with height and width of at least 32. A feature map at stride s has
ceil(height / s) x ceil(width / s) cells. Logits are (batch, num_classes).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import ArgumentError, quoted
from effnet_zoo.network.backbone import Backbone, init_weights, take_levels
from effnet_zoo.network.layers import GlobalPool, Layers
from effnet_zoo.network.options import NUMERICS, BuildOptions, ModelOptions, check, check_flags, check_options


class EfficientNet(Backbone):
    """An image classifier built from an `ArchSpec`.

    Args:
        arch: The architecture; `ArchSpec.from_blocks` and `ArchSpec.from_rows` read a notation of your own.
        num_classes: Number of classes; 0 for pooled features instead of logits.
        in_chans: Channels of the image.
        global_pool: ``avg``, ``max``, ``avgmax``, ``catavgmax``, or ``""`` for no pooling (with num_classes=0).
        output_stride: Total stride of the network: 8, 16 or 32. Strides beyond it become dilation. None leaves all
            strides as the architecture declares them.
        device: Device of the weights; on ``meta`` nothing is allocated.
        dtype: Type of the weights: torch.float32, float64, float16 or bfloat16.

    Raises:
        ArgumentError: If a value is of another type, or outside what is listed.
        SpecError: If output_stride is another number.
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
        super().__init__(make, in_chans, output_stride)
        self.num_features = arch.head_filters
        self.drop_rate = arch.drop_rate
        self.conv_head = make.conv(arch.stages[-1].out_filters, arch.head_filters)
        self.bn2 = make.norm(arch.head_filters)
        self.act2 = make.act()
        self.head_drop = nn.Dropout(arch.drop_rate)
        self._set_classifier(num_classes, global_pool)
        init_weights(self)

    @classmethod
    def from_name(cls, name: str, **options: Unpack[BuildOptions]) -> "EfficientNet":
        """Build a variant with random weights by any of its names, such as ``efficientnet-b3`` or ``effnet_zoo_b3``."""
        from effnet_zoo.checkpoints import creation  # above this room: it builds these models, only the way in is here

        return creation.create_classifier(name, **options)

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
        """Load a variant with weights: of its default checkpoint, of the checkpoint of a tag, or of a local file.

        Args:
            name: A name as `from_name` takes it; a tag may follow a dot.
            weights_path: A ``.safetensors`` or ``.pth`` file with the keys of this package, timm, efficientnet_pytorch
                or torchvision. Its weights are your own: no licence, tag or origin of a checkpoint is claimed for them.
            advprop: Whether to take the AdvProp checkpoint, tag ``ap_in1k``.
            tag: The tag of the checkpoint to take.
            options: As in `from_name`. A num_classes other than the checkpoint's asks for a new, random classifier.

        Raises:
            UnknownNameError: If there is no model of this name, or the model has no such tag.
            ArgumentError: If more than one of weights_path, advprop and tag is given.
            WeightsError: If the weights cannot be found or do not fit.
        """
        from effnet_zoo.checkpoints import creation

        return creation.create_pretrained_classifier(name, weights_path, advprop=advprop, tag=tag, **options)

    @classmethod
    def get_image_size(cls, name: str) -> int:
        """Return the side in pixels of the square input that a variant is meant for."""
        from effnet_zoo.zoo import catalogue  # it reads the ledger, which building a model does not need

        return catalogue.find_variant(name).spec.image_size

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map after the head convolution, (batch, num_features, height / 32, width / 32) rounded up."""
        return self._head(self.blocks(self.forward_stem(x)))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return the logits of a map of `forward_features`, or with `pre_logits` features (batch, head_hidden_size).

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
        """Return the feature pyramid, the head's map and, on request, the logits, from one pass.

        Args:
            x: Images.
            indices: Levels of `feature_info`: a sequence (negative counts from the end), the last n, or None for all.
            norm: Ignored: timm's signature has it, and the maps are normalised already.
            stop_early: Whether to end after the last wanted level, whose map then takes the place of the head's.
            output_fmt: ``NCHW``, the only format there is.
            intermediates_only: Whether to return the list of maps alone.
            return_logits: Whether to return the logits too, as the third value.

        Returns:
            ``(map, [level, ...])``, ``[level, ...]``, or ``(map, [level, ...], logits)``.

        Raises:
            ArgumentError: If a level does not exist, or logits are wanted from a pass that ends before them.
        """
        if output_fmt != "NCHW":
            raise ArgumentError(f"output_fmt={quoted(output_fmt)}: expected 'NCHW'")
        if return_logits and (stop_early or intermediates_only):
            raise ArgumentError("return_logits needs the whole run: leave out stop_early and intermediates_only")
        wanted = [self.feature_info[index]["stage"] for index in take_levels(indices, len(self.feature_info))]
        x, maps = self.forward_stages(x, wanted, max(wanted) if stop_early else len(self.blocks))
        if intermediates_only:
            return maps
        if stop_early and max(wanted) < len(self.blocks):
            return x, maps
        x = self._head(x)
        return (x, maps, self.forward_head(x)) if return_logits else (x, maps)

    def extract_features(self, x: Tensor) -> Tensor:
        """Return what `forward_features` returns, under efficientnet_pytorch's name."""
        return self.forward_features(x)

    def extract_endpoints(self, x: Tensor) -> dict[str, Tensor]:
        """Return the pyramid, ``reduction_1`` (stride 2) to ``reduction_5`` (32), and the head's, ``reduction_6``."""
        x, maps = self.forward_intermediates(x)
        return {f"reduction_{number}": level for number, level in enumerate([*maps, x], start=1)}

    def get_classifier(self) -> nn.Module:
        return self.classifier

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a random one, and the pooling if `global_pool` names one."""
        self._set_classifier(num_classes, self.global_pool.pool_type if global_pool is None else global_pool)
        init_weights(self.classifier)
        self.train(self.training)

    @torch.jit.ignore  # type: ignore[untyped-decorator]
    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return regular expressions that group parameters by depth, for timm's layer-wise learning rates."""
        block = r"^blocks\.(\d+)" if coarse else r"^blocks\.(\d+)\.(\d+)"
        head = (r"conv_head|bn2", (99999,))  # after every block, whatever their number
        return {"stem": r"^conv_stem|bn1", "blocks": [(block, None), head]}

    def _head(self, x: Tensor) -> Tensor:
        return self.act2(self.bn2(self.conv_head(x)))

    def _set_classifier(self, num_classes: int, global_pool: str) -> None:
        check(num_classes=num_classes, global_pool=global_pool)
        if not global_pool and num_classes:
            raise ArgumentError(f"global_pool='' with num_classes={num_classes}: a classifier needs pooled features")
        weight = self.conv_head.weight
        place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        self.num_classes = num_classes
        self.global_pool: Any = GlobalPool(global_pool)  # users may replace it by any module
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        linear = nn.Linear(self.head_hidden_size, num_classes, **place) if num_classes else nn.Identity()
        self.classifier: nn.Module = linear


class EfficientNetFeatures(Backbone):
    """A feature pyramid: images to a list of maps, fine to coarse. Stages that no map needs are not built.

    All arguments but `out_indices` are those of `EfficientNet`.

    Args:
        out_indices: The levels to return, from 0 (stride 2) to 4 (stride 32); negative numbers count from the end. A
            number n instead of a list means the last n levels.

    Raises:
        ArgumentError: If a level does not exist, or a value is of another type.
        SpecError: If output_stride is another number.
    """

    def __init__(
        self,
        arch: ArchSpec,
        *,
        out_indices: int | Sequence[int] = (0, 1, 2, 3, 4),
        in_chans: int = 3,
        output_stride: int | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(Layers(arch, device, dtype), in_chans, output_stride, out_indices)
        self._out_stages: list[int] = self.feature_info.get("stage")
        init_weights(self)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the maps of `out_indices`: of level i, (batch, channels, height / s, width / s) rounded up."""
        return self.forward_stages(x, self._out_stages, len(self.blocks))[1]


def build_model(arch: ArchSpec, **options: Unpack[ModelOptions]) -> EfficientNet | EfficientNetFeatures:
    """Build a model with random weights. Numerics among the options replace the architecture's."""
    check_options(options, ModelOptions)
    check(arch=arch)
    features_only = options.get("features_only", False)
    check_flags(features_only=features_only)
    if "out_indices" in options and not features_only:
        raise ArgumentError("out_indices without features_only=True: it selects levels of a feature pyramid")
    numerics: dict[str, Any] = {NUMERICS[name]: value for name, value in options.items() if name in NUMERICS}
    of_others = {"features_only", *NUMERICS, *(("num_classes", "global_pool") if features_only else ())}
    own: dict[str, Any] = {name: value for name, value in options.items() if name not in of_others}
    network = EfficientNetFeatures if features_only else EfficientNet
    return network(dataclasses.replace(arch, **numerics), **own)
