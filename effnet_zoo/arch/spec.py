"""A whole network in one frozen object: scaled stages, and every numeric that changes its output.

The engine sees neither notation, family nor name.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from effnet_zoo.arch.blocks import BlockKind, BlockSpec, Convolution
from effnet_zoo.arch.checks import check_choice, check_flag, check_number, check_whole, is_number, is_whole
from effnet_zoo.arch.families import Activation, Family, Padding, Variant
from effnet_zoo.arch.notation import StageSpec, check_chain, decode_blocks, decode_rows
from effnet_zoo.errors import SpecError, quoted

OUTPUT_STRIDES = (8, 16, 32)

MIN_SIZE = 32
"""Smallest input side in pixels: the network halves it five times."""

MAX_FACTOR = 100
"""Largest factor of width or depth; the widest published network, L2, has 4.3 and 5.3."""

SMALLEST = 1e-12
"""Smallest batch norm epsilon and momentum: float32 takes much smaller ones for 0, and divides by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Compound scaling of filters and repeats (arXiv:1905.11946, section 3.3, and the reference code's rounding).

    Attributes:
        width: Factor of the filters, which are then rounded to a multiple of `divisor`; at 1 they stay as declared.
        depth: Factor of the repeats, which are then rounded up.
        divisor: Number that the filters are rounded to a multiple of; also their minimum.
        round_limit: Share of the scaled filters that rounding must keep; below it, filters are rounded up.
        scale_ends: Whether stem and head are scaled too, and the first and last stage deepened (not in Lite).

    Raises:
        SpecError: If a value is outside its bounds.
    """

    width: float = 1.0
    depth: float = 1.0
    divisor: int = 8
    round_limit: float = 0.9
    scale_ends: bool = True

    def __post_init__(self) -> None:
        for field, value in (("width", self.width), ("depth", self.depth)):
            if not is_number(value) or not 0 < value <= MAX_FACTOR:
                raise SpecError(f"{field}={quoted(value)}: expected a factor above 0 and up to {MAX_FACTOR}")
        check_whole("divisor", self.divisor)
        check_number("round_limit", self.round_limit, 0, 1, "a share")
        check_flag("scale_ends", self.scale_ends)

    def filters(self, filters: int) -> int:
        """Return `filters` times width, rounded."""
        return filters if self.width == 1.0 else round_filters(filters * self.width, self.divisor, self.round_limit)

    def ends(self, filters: int) -> int:
        """Return the filters of stem or head, scaled only if `scale_ends`."""
        return self.filters(filters) if self.scale_ends else filters

    def repeats(self, repeats: int) -> int:
        """Return `repeats` times depth, rounded up."""
        return math.ceil(repeats * self.depth)

    def stages(self, stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        """Return all stages of a network, scaled."""
        kept = () if self.scale_ends else (0, len(stages) - 1)
        return tuple(
            dataclasses.replace(
                stage,
                repeats=stage.repeats if index in kept else self.repeats(stage.repeats),
                in_filters=self.ends(stage.in_filters) if index == 0 else self.filters(stage.in_filters),
                out_filters=self.filters(stage.out_filters),
            )
            for index, stage in enumerate(stages)
        )


def round_filters(filters: float, divisor: int, round_limit: float = 0.9) -> int:
    """Return the multiple of `divisor` nearest to `filters`, or the next one where it is below `round_limit`."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * filters else rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchSpec:
    """A whole network: stem, stages (already scaled), head, and every numeric that changes its output.

    Attributes:
        stem_filters: Filters of the 3x3 stride-2 stem.
        stages: The stages. Each takes as many filters as the stage before it gives.
        head_filters: Filters of the 1x1 convolution before pooling.
        activation: ``silu``, ``relu`` or ``relu6``.
        padding: ``same`` as in TensorFlow (the larger part after the image), or ``symmetric``, k // 2 all around.
        bn_eps: Batch norm epsilon.
        bn_momentum: Batch norm momentum in PyTorch's sense.
        drop_rate: Dropout rate in front of the classifier.
        drop_path_rate: Stochastic depth: block i of n drops its residual branch with probability rate * i / n.
        image_size: Side in pixels of the square input that the network is meant for at inference.
        first_expansion_as_declared: Whether stage 1 expands its declared in_filters, and not the stem's filters.
        se_divisor: Number that squeeze widths are rounded to a multiple of (8 in effnetv2.pytorch, else 1).
        fused_always_projects: Whether a fused block with expansion 1 has a 1x1 projection too (in effnetv2.pytorch).

    Raises:
        SpecError: If a value is outside its bounds, or the first stage does not take what the stem gives.
    """

    stem_filters: int
    stages: tuple[StageSpec, ...]
    head_filters: int
    activation: Activation = "silu"
    padding: Padding = "same"
    bn_eps: float = 1e-3
    bn_momentum: float = 0.01
    drop_rate: float = 0.2
    drop_path_rate: float = 0.2
    image_size: int = 224
    first_expansion_as_declared: bool = False
    se_divisor: int = 1
    fused_always_projects: bool = False

    def __post_init__(self) -> None:
        for field in ("stem_filters", "head_filters", "image_size", "se_divisor"):
            check_whole(field, getattr(self, field))
        if not isinstance(self.stages, tuple) or not all(isinstance(stage, StageSpec) for stage in self.stages):
            raise SpecError(f"stages={quoted(self.stages)}: expected a tuple of StageSpec, as decode_blocks gives")
        check_flag("first_expansion_as_declared", self.first_expansion_as_declared)
        check_flag("fused_always_projects", self.fused_always_projects)
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("padding", self.padding, get_args(Padding))
        for field, low in (("bn_eps", SMALLEST), ("bn_momentum", SMALLEST), ("drop_rate", 0), ("drop_path_rate", 0)):
            check_number(field, getattr(self, field), low, 1)
        check_chain(self.stages)
        first = self.stages[0].in_filters
        expands_declared = self.first_expansion_as_declared and self.stages[0].expand > 1
        if first != self.stem_filters and not expands_declared:
            stem = self.stem_filters
            raise SpecError(f"stage 1 takes i{first}, but the stem gives {stem}: expected i{stem}")

    @classmethod
    def build(
        cls,
        stages: tuple[StageSpec, ...],
        *,
        stem: int,
        head: int = 1280,
        scaling: Scaling | None = None,
        **numerics: Any,
    ) -> "ArchSpec":
        """Scale stages, stem and head into a network. Without `scaling` they stay as declared.

        `numerics` are other fields of the network, such as `activation`.
        """
        scaling = scaling or Scaling()
        check_whole("stem", stem)
        check_whole("head", head)
        return cls(
            stem_filters=scaling.ends(stem), stages=scaling.stages(stages), head_filters=scaling.ends(head), **numerics
        )

    @classmethod
    def from_blocks(
        cls, blocks: Sequence[str], *, stem: int = 32, head: int = 1280, scaling: Scaling | None = None
    ) -> "ArchSpec":
        """Return the network of a list of block strings, with V1's numerics; `dataclasses.replace` changes these.

        Raises:
            SpecError: If a string is malformed or the filters do not follow from stem to last stage.
        """
        return cls.build(decode_blocks(blocks), stem=stem, head=head, scaling=scaling)

    @classmethod
    def from_rows(
        cls, rows: Sequence[Sequence[int]], *, stem: int = 24, head: int = 1280, scaling: Scaling | None = None
    ) -> "ArchSpec":
        """Return the network of ``(t, c, n, s, fused)`` rows, with V2's numerics. A malformed row is a SpecError."""
        return cls.build(decode_rows(rows, stem=stem), stem=stem, head=head, scaling=scaling)

    def to_dict(self) -> dict[str, Any]:
        """Return every field in JSON's types; `from_dict` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> "ArchSpec":
        """Return the network with the fields that `to_dict` returns. Any other field is a SpecError."""
        try:
            stages = tuple(StageSpec(**stage) for stage in fields["stages"])
            return cls(**{**fields, "stages": stages})
        except (TypeError, KeyError) as error:
            raise SpecError(f"not a network's fields: {error}: expected those that ArchSpec.to_dict returns") from None

    def blocks(self, *, output_stride: int | None = None) -> tuple[tuple[BlockSpec, ...], ...]:
        """Return every block, stage by stage.

        `output_stride` is the total stride of the network: 8, 16 or 32. A stride beyond it becomes 1, and the blocks
        after it are dilated instead. None leaves all strides as declared.
        """
        if output_stride is not None and not (is_whole(output_stride) and output_stride in OUTPUT_STRIDES):
            raise SpecError(f"output_stride={quoted(output_stride)}: expected {', '.join(map(str, OUTPUT_STRIDES))}")
        total = sum(stage.repeats for stage in self.stages)
        index, reached, dilation, filters = 0, 2, 1, self.stem_filters
        resolved: list[tuple[BlockSpec, ...]] = []
        for stage in self.stages:
            blocks: list[BlockSpec] = []
            expanded_from = stage.in_filters
            for declared in (stage.stride, *[1] * (stage.repeats - 1)):
                stride = 1 if output_stride and reached * declared > output_stride else declared
                squeezed = int(expanded_from * stage.se_ratio)
                block = BlockSpec(
                    kind=self._kind(stage),
                    in_filters=filters,
                    mid_filters=expanded_from * stage.expand,
                    out_filters=stage.out_filters,
                    kernel=stage.kernel,
                    stride=stride,
                    dilation=dilation,
                    se_filters=round_filters(squeezed, self.se_divisor) if stage.se_ratio else 0,
                    skip=stage.skip and declared == 1 and filters == stage.out_filters,
                    drop_path=self.drop_path_rate * index / total,
                )
                blocks.append(block)
                reached *= stride
                dilation *= declared // stride
                filters = expanded_from = stage.out_filters
                index += 1
            resolved.append(tuple(blocks))
        return tuple(resolved)

    def _kind(self, stage: StageSpec) -> BlockKind:
        if stage.fused:
            return "conv" if stage.expand == 1 and not self.fused_always_projects else "fused"
        return "separable" if stage.expand == 1 else "mbconv"

    def parameters(self, *, num_classes: int = 1000, in_chans: int = 3) -> int:
        """Return the number of learnable parameters (batch norm's running statistics are not counted)."""
        return sum(convolution.parameters for convolution in self._convolutions(num_classes, in_chans))

    def macs(self, *, size: int | None = None, num_classes: int = 1000, in_chans: int = 3) -> int:
        """Return the multiply-accumulates of one square image in the convolutions and the classifier.

        `size` is its side in pixels, by default `image_size`.
        """
        side, total = self.image_size if size is None else size, 0
        check_whole("size", side)
        for convolution in self._convolutions(num_classes, in_chans):
            side = math.ceil(side / convolution.stride)
            total += convolution.weights * (1 if convolution.on_pooled else side * side)
        return total

    def _convolutions(self, num_classes: int, in_chans: int) -> Iterator[Convolution]:
        check_whole("num_classes", num_classes, least=0)
        check_whole("in_chans", in_chans)
        yield Convolution(in_chans, self.stem_filters, kernel=3, stride=2)
        for stage in self.blocks():
            for block in stage:
                yield from block.convolutions()
        yield Convolution(self.stages[-1].out_filters, self.head_filters)
        yield Convolution(self.head_filters, num_classes, on_pooled=True)


def variant_spec(family: Family, variant: Variant) -> ArchSpec:
    """Return the network that a row of a family's table declares."""
    stages: Any = variant.stages
    return ArchSpec.build(
        decode_blocks(stages) if isinstance(stages[0], str) else decode_rows(stages, stem=variant.stem),
        stem=variant.stem,
        scaling=Scaling(width=variant.width, depth=variant.depth, **family.scaling),
        drop_rate=variant.dropout,
        image_size=variant.size,
        **family.numerics,
    )
