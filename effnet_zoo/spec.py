"""What a network is, in frozen objects, and the two notations it is written in.

Block strings and rows are decoded into `StageSpec` and encoded back here, and exist nowhere else: the engine only sees
`BlockSpec`, one per block with every number resolved. Nothing here needs torch.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeGuard, get_args

from effnet_zoo.errors import SpecError, did_you_mean
from effnet_zoo.families import Activation, Family, Padding, Stages, Variant

BlockKind = Literal["mbconv", "separable", "fused", "conv"]
Row = tuple[int, int, int, int, int]

PADDINGS: tuple[Padding, ...] = get_args(Padding)
ACTIVATIONS: tuple[Activation, ...] = get_args(Activation)
OUTPUT_STRIDES = (8, 16, 32)

MIN_SIZE = 32
"""Smallest input side in pixels: the network halves it five times."""

MAX_WHOLE = 999_999
"""Largest number in a description: what six digits of a block string can say."""

ROW_KERNEL = 3
ROW_SE_RATIO = 0.25

MAX_FACTOR = 100
"""Largest factor of width or depth; the widest published network, L2, has 4.3 and 5.3."""

_WHOLE = re.compile(r"[1-9][0-9]{0,5}")
_RATIO = re.compile(r"(0|1)(\.[0-9]{1,9})?")
_TOKEN = re.compile(r"([a-z]+)(.*)", re.DOTALL)
_FIELDS = {"r": "repeats", "k": "kernel", "s": "stride", "e": "expand", "i": "in_filters", "o": "out_filters"}
_KEYS = (*_FIELDS, "se", "c", "noskip")


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MAX_WHOLE


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _check_whole(field: str, value: object) -> None:
    if not _is_whole(value) or value < 1:
        raise SpecError(f"{field}={_shown(value)}: expected a whole number from 1 to {MAX_WHOLE}")


def _shown(value: object) -> str:
    try:
        return repr(value)
    except ValueError:  # Python refuses to write integers of thousands of digits
        return "a number of thousands of digits"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage: `repeats` blocks of the same kind, of which only the first may change stride and filters.

    Attributes:
        repeats: Number of blocks, at least 1.
        kernel: Side of the depthwise (or fused) convolution, odd.
        stride: Of the first block, 1 or 2.
        expand: Expansion ratio, at least 1; 1 means the block has no expansion.
        in_filters: Filters entering the first block.
        out_filters: Filters leaving every block.
        se_ratio: Squeeze width as a share of each block's input filters, above 0 and up to 1; 0 for no squeeze-excite.
        skip: Whether blocks that keep size and width add their input.
        fused: Fused-MBConv instead of MBConv; has no squeeze-excite.

    Raises:
        SpecError: If a value is outside these bounds.
    """

    repeats: int
    kernel: int
    stride: int
    expand: int
    in_filters: int
    out_filters: int
    se_ratio: float = 0.0
    skip: bool = True
    fused: bool = False

    def __post_init__(self) -> None:
        for field in ("repeats", "kernel", "stride", "expand", "in_filters", "out_filters"):
            _check_whole(field, getattr(self, field))
        if self.kernel % 2 == 0:
            raise SpecError(f"kernel={self.kernel}: expected an odd kernel, so that SAME padding is defined alike")
        if self.stride not in (1, 2):
            raise SpecError(f"stride={self.stride}: expected 1 or 2")
        if not _is_number(self.se_ratio) or not 0 <= self.se_ratio <= 1:
            raise SpecError(
                f"se_ratio={_shown(self.se_ratio)}: expected a share of the input filters from 0 (none) to 1"
            )
        for field in ("skip", "fused"):
            if not isinstance(getattr(self, field), bool):
                raise SpecError(f"{field}={getattr(self, field)!r}: expected True or False")
        if self.fused and self.se_ratio:
            raise SpecError(f"se_ratio={self.se_ratio} in a fused stage: fused blocks have no squeeze-excite")


def decode_block(text: str) -> StageSpec:
    """Read one block string, such as ``r2_k3_s22_e6_i16_o24_se0.25`` or Google's V2 form ``r4_k3_s2_e4_i24_o48_c1``.

    Args:
        text: Tokens joined by underscores, in any order: r, k, s, e, i and o once each, with a whole number (s also
            twice the same digit); optionally ``se`` with a ratio, ``c`` with 0 or 1 (1 = fused) and ``noskip``.

    Raises:
        SpecError: Quoting the token that is wrong and what was expected in its place.
    """
    if not isinstance(text, str):
        raise SpecError(f"block string {_shown(text)}: expected text such as 'r2_k3_s22_e6_i16_o24_se0.25'")

    def wrong(token: str, expected: str) -> SpecError:
        return SpecError(f"block string {text!r}, token {token!r}: expected {expected}")

    numbers: dict[str, int] = {}
    se_ratio, skip, fused = 0.0, True, False
    seen: set[str] = set()
    for token in text.split("_"):
        match = _TOKEN.fullmatch(token)
        key, value = match.groups() if match else ("", "")
        if key not in _KEYS:
            raise wrong(token, f"one of the keys {', '.join(_KEYS)} and its value")
        if key in seen:
            raise wrong(token, f"{key} only once")
        seen.add(key)
        if key == "noskip":
            if value:
                raise wrong(token, "noskip without a value")
            skip = False
        elif key == "c":
            if value not in ("0", "1"):
                raise wrong(token, "c0 (MBConv) or c1 (Fused-MBConv)")
            fused = value == "1"
        elif key == "se":
            if not _RATIO.fullmatch(value) or not 0 < float(value) <= 1:
                raise wrong(token, "se and a decimal above 0 and up to 1; leave se out for none")
            se_ratio = float(value)
        elif key == "s":
            if value not in ("1", "2", "11", "22"):
                raise wrong(token, "a square stride of 1 or 2: s1, s2, s11 or s22")
            numbers["stride"] = int(value[0])
        else:
            if not _WHOLE.fullmatch(value):
                raise wrong(token, f"{key} and a whole number from 1 to {MAX_WHOLE}")
            numbers[_FIELDS[key]] = int(value)
    if missing := [key for key, field in _FIELDS.items() if field not in numbers]:
        raise SpecError(f"block string {text!r}: expected also the keys {', '.join(missing)}")
    if numbers["kernel"] % 2 == 0:
        raise wrong(f"k{numbers['kernel']}", "an odd kernel")
    if fused and se_ratio:
        raise wrong("c1", "no se beside it: fused blocks have no squeeze-excite")
    return StageSpec(**numbers, se_ratio=se_ratio, skip=skip, fused=fused)


def encode_block(stage: StageSpec) -> str:
    """Write a stage as a block string that `decode_block` reads back as the same stage.

    Raises:
        SpecError: If the squeeze-excite ratio cannot be written with nine decimals.
    """
    tokens = [f"{key}{getattr(stage, field)}" for key, field in _FIELDS.items()]
    tokens[2] = f"s{stage.stride}{stage.stride}"
    if stage.se_ratio:
        ratio = f"{stage.se_ratio:.9f}".rstrip("0").rstrip(".")
        if float(ratio) != stage.se_ratio:
            raise SpecError(f"se_ratio={stage.se_ratio!r}: expected at most nine decimals in a block string")
        tokens.append(f"se{ratio}")
    if stage.fused:
        tokens.append("c1")
    if not stage.skip:
        tokens.append("noskip")
    return "_".join(tokens)


def decode_blocks(blocks: Sequence[str]) -> tuple[StageSpec, ...]:
    """Read a network's block strings, whose filters must follow from one stage to the next.

    Raises:
        SpecError: If the list is empty, a string is malformed, or a stage does not take what the one before gives.
    """
    if isinstance(blocks, str) or not isinstance(blocks, Sequence):
        raise SpecError(f"block strings {_shown(blocks)}: expected a list of strings, one a stage")
    stages = tuple(decode_block(text) for text in blocks)
    _check_chain(stages)
    return stages


def decode_rows(rows: Sequence[Sequence[int]], *, stem: int) -> tuple[StageSpec, ...]:
    """Read a network's rows ``(t, c, n, s, fused)``: kernel 3, squeeze-excite 0.25 where not fused.

    Args:
        rows: One row a stage: expansion, output filters, repeats, stride, and 1 for fused or 0 for MBConv.
        stem: Filters that enter the first stage.

    Raises:
        SpecError: Naming the row and the column that is wrong.
    """
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        raise SpecError(f"rows {_shown(rows)}: expected a list of (t, c, n, s, fused), one a stage")
    stages: list[StageSpec] = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str | bytes) or not isinstance(row, Sequence) or len(row) != len(get_args(Row)):
            raise SpecError(f"row {number}, {_shown(row)}: expected five whole numbers (t, c, n, s, fused)")
        t, c, n, s, fused = row
        if not _is_whole(fused) or fused not in (0, 1):
            raise SpecError(f"row {number}, fused={_shown(fused)}: expected 1 (Fused-MBConv) or 0 (MBConv)")
        try:
            stage = StageSpec(
                repeats=n,
                kernel=ROW_KERNEL,
                stride=s,
                expand=t,
                in_filters=stages[-1].out_filters if stages else stem,
                out_filters=c,
                se_ratio=0.0 if fused else ROW_SE_RATIO,
                fused=bool(fused),
            )
        except SpecError as error:
            raise SpecError(f"row {number}, {_shown(tuple(row))}: {error}") from None
        stages.append(stage)
    _check_chain(tuple(stages))
    return tuple(stages)


def encode_rows(stages: Iterable[StageSpec]) -> list[Row]:
    """Write stages as rows that `decode_rows` reads back, given the same stem.

    Raises:
        SpecError: If a stage has a kernel, squeeze-excite or skip that rows cannot express.
    """
    rows: list[Row] = []
    for number, stage in enumerate(stages, start=1):
        if not isinstance(stage, StageSpec):
            raise SpecError(f"stage {number}, {_shown(stage)}: expected a StageSpec")
        expected = {"kernel": ROW_KERNEL, "se_ratio": 0.0 if stage.fused else ROW_SE_RATIO, "skip": True}
        for field, value in expected.items():
            if getattr(stage, field) != value:
                raise SpecError(
                    f"stage {number} has {field}={getattr(stage, field)}: rows can only express {value}; "
                    "write it as block strings"
                )
        rows.append((stage.expand, stage.out_filters, stage.repeats, stage.stride, int(stage.fused)))
    return rows


def _check_chain(stages: tuple[StageSpec, ...]) -> None:
    if not stages:
        raise SpecError("no stages: expected at least one block string or row")
    for number in range(1, len(stages)):
        given, wanted = stages[number - 1].out_filters, stages[number].in_filters
        if given != wanted:
            raise SpecError(f"stage {number + 1} takes i{wanted}, but stage {number} gives o{given}: expected i{given}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Compound scaling of filters and repeats (arXiv:1905.11946, section 3.3 and the reference code's rounding).

    Attributes:
        width: Multiplies filters, which are then rounded to a multiple of `divisor`; at 1 they stay as declared.
        depth: Multiplies repeats, which are then rounded up.
        divisor: Filters are rounded to a multiple of it, and are never fewer.
        round_limit: Rounding down below this share of the scaled filters rounds up instead.
        scale_ends: Whether stem and head are scaled too, and the first and last stage deepened.
    """

    width: float = 1.0
    depth: float = 1.0
    divisor: int = 8
    round_limit: float = 0.9
    scale_ends: bool = True

    def __post_init__(self) -> None:
        for field in ("width", "depth"):
            value = getattr(self, field)
            if not _is_number(value) or not 0 < value <= MAX_FACTOR:
                raise SpecError(f"{field}={_shown(value)}: expected a factor above 0 and up to {MAX_FACTOR}")
        _check_whole("divisor", self.divisor)
        if not _is_number(self.round_limit) or not 0 <= self.round_limit <= 1:
            raise SpecError(f"round_limit={_shown(self.round_limit)}: expected a share from 0 to 1")
        if not isinstance(self.scale_ends, bool):
            raise SpecError(f"scale_ends={_shown(self.scale_ends)}: expected True or False")

    def filters(self, filters: int) -> int:
        """`filters` times width, rounded."""
        if self.width == 1.0:
            return filters
        scaled = filters * self.width
        rounded = max(self.divisor, int(scaled + self.divisor / 2) // self.divisor * self.divisor)
        return rounded + self.divisor if rounded < self.round_limit * scaled else rounded

    def repeats(self, repeats: int) -> int:
        """`repeats` times depth, rounded up."""
        return math.ceil(repeats * self.depth)

    def stages(self, stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        """All stages of a network, scaled."""
        ends = () if self.scale_ends else (0, len(stages) - 1)
        return tuple(
            dataclasses.replace(
                stage,
                repeats=stage.repeats if index in ends else self.repeats(stage.repeats),
                # The stem feeds the first stage, so where the stem is not scaled neither is what enters.
                in_filters=stage.in_filters if index == 0 and not self.scale_ends else self.filters(stage.in_filters),
                out_filters=self.filters(stage.out_filters),
            )
            for index, stage in enumerate(stages)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockSpec:
    """One block with every number resolved.

    Attributes:
        kind: ``mbconv`` (expand 1x1, depthwise, project), ``separable`` (MBConv with expansion 1: no expand),
            ``fused`` (expand kxk, project) or ``conv`` (fused with expansion 1: a single kxk convolution).
        in_filters: Filters of the input.
        mid_filters: Filters inside, in_filters times the expansion.
        out_filters: Filters of the output.
        kernel: Side of the depthwise or fused convolution.
        stride: Its stride.
        dilation: Its dilation.
        se_filters: Squeeze width, 0 for no squeeze-excite.
        skip: Whether the input is added to the output.
        drop_path: Probability of dropping the residual branch for a sample.
    """

    kind: BlockKind
    in_filters: int
    mid_filters: int
    out_filters: int
    kernel: int
    stride: int
    dilation: int
    se_filters: int
    skip: bool
    drop_path: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchSpec:
    """A whole network: stem, stages (already scaled), head, and every numeric that changes its output.

    Attributes:
        stem_filters: Filters of the 3x3 stride-2 stem.
        stages: The stages; each takes the filters that the one before gives.
        head_filters: Filters of the 1x1 convolution before pooling.
        activation: ``silu``, ``relu`` or ``relu6``.
        padding: ``same`` as TensorFlow pads (more after than before where uneven), ``symmetric`` k // 2 all around.
        bn_eps: Batch norm epsilon.
        bn_momentum: Batch norm momentum in PyTorch's sense.
        drop_rate: Dropout rate in front of the classifier.
        drop_path_rate: Stochastic depth: block i of n drops its residual branch with probability rate * i / n.
        image_size: Side in pixels of the square input the network is meant for at inference.
        first_expansion_as_declared: Whether stage 1 multiplies its own in_filters rather than the stem's.

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

    def __post_init__(self) -> None:
        for field in ("stem_filters", "head_filters", "image_size"):
            _check_whole(field, getattr(self, field))
        if not isinstance(self.stages, tuple) or not all(isinstance(stage, StageSpec) for stage in self.stages):
            raise SpecError(f"stages={_shown(self.stages)}: expected a tuple of StageSpec, as decode_blocks gives")
        if not isinstance(self.first_expansion_as_declared, bool):
            raise SpecError(
                f"first_expansion_as_declared={_shown(self.first_expansion_as_declared)}: expected True or False"
            )
        for field, known in (("activation", ACTIVATIONS), ("padding", PADDINGS)):
            value = getattr(self, field)
            if value not in known:
                raise SpecError(f"{field}={value!r}: expected {' or '.join(known)}.{did_you_mean(str(value), known)}")
        for field in ("bn_eps", "bn_momentum"):
            value = getattr(self, field)
            if not _is_number(value) or not 0 < value <= 1:
                raise SpecError(f"{field}={_shown(value)}: expected a number above 0 and up to 1")
        for field in ("drop_rate", "drop_path_rate"):
            value = getattr(self, field)
            if not _is_number(value) or not 0 <= value <= 1:
                raise SpecError(f"{field}={_shown(value)}: expected a number from 0 to 1")
        _check_chain(self.stages)
        first = self.stages[0].in_filters
        expands_declared = self.first_expansion_as_declared and self.stages[0].expand > 1
        if first != self.stem_filters and not expands_declared:
            raise SpecError(
                f"stage 1 takes i{first}, but the stem gives {self.stem_filters}: expected i{self.stem_filters}"
            )

    @classmethod
    def build(
        cls,
        stages: tuple[StageSpec, ...],
        *,
        stem: int,
        head: int = 1280,
        scaling: Scaling | None = None,
        activation: Activation = "silu",
        padding: Padding = "same",
        bn_eps: float = 1e-3,
        bn_momentum: float = 0.01,
        drop_rate: float = 0.2,
        drop_path_rate: float = 0.2,
        image_size: int = 224,
        first_expansion_as_declared: bool = False,
    ) -> "ArchSpec":
        """Scale decoded stages, stem and head into a network. Arguments are as declared, before scaling."""
        scaling = scaling or Scaling()
        _check_whole("stem", stem)
        _check_whole("head", head)
        return cls(
            stem_filters=scaling.filters(stem) if scaling.scale_ends else stem,
            stages=scaling.stages(stages),
            head_filters=scaling.filters(head) if scaling.scale_ends else head,
            activation=activation,
            padding=padding,
            bn_eps=bn_eps,
            bn_momentum=bn_momentum,
            drop_rate=drop_rate,
            drop_path_rate=drop_path_rate,
            image_size=image_size,
            first_expansion_as_declared=first_expansion_as_declared,
        )

    @classmethod
    def from_blocks(
        cls, blocks: Sequence[str], *, stem: int = 32, head: int = 1280, scaling: Scaling | None = None
    ) -> "ArchSpec":
        """A network from a list of block strings; other numerics are V1's, changed with `dataclasses.replace`.

        Raises:
            SpecError: If a string is malformed or the filters do not follow from stem to last stage.
        """
        return cls.build(decode_blocks(blocks), stem=stem, head=head, scaling=scaling)

    @classmethod
    def from_rows(
        cls, rows: Sequence[Sequence[int]], *, stem: int = 24, head: int = 1280, scaling: Scaling | None = None
    ) -> "ArchSpec":
        """A network from a list of ``(t, c, n, s, fused)`` rows; other numerics are V2's.

        Raises:
            SpecError: If a row is malformed.
        """
        return cls.build(decode_rows(rows, stem=stem), stem=stem, head=head, scaling=scaling)

    def blocks(self, *, output_stride: int | None = None) -> tuple[tuple[BlockSpec, ...], ...]:
        """Every block, stage by stage.

        Args:
            output_stride: Input size over the size of the last feature map, if it is to be less than the strides make
                it: 8, 16 or 32. Strides beyond it become dilation in the blocks that follow.

        Raises:
            SpecError: If output_stride is another number.
        """
        if output_stride is not None and output_stride not in OUTPUT_STRIDES:
            raise SpecError(f"output_stride={_shown(output_stride)}: expected {', '.join(map(str, OUTPUT_STRIDES))}")
        total = sum(stage.repeats for stage in self.stages)
        index, reached, dilation, filters = 0, 2, 1, self.stem_filters
        resolved: list[tuple[BlockSpec, ...]] = []
        for stage in self.stages:
            blocks: list[BlockSpec] = []
            expanded_from = stage.in_filters
            for repeat in range(stage.repeats):
                declared = stage.stride if repeat == 0 else 1
                stride = 1 if output_stride and reached * declared > output_stride else declared
                blocks.append(
                    BlockSpec(
                        kind=_kind(stage),
                        in_filters=filters,
                        mid_filters=expanded_from * stage.expand,
                        out_filters=stage.out_filters,
                        kernel=stage.kernel,
                        stride=stride,
                        dilation=dilation,
                        se_filters=max(1, int(expanded_from * stage.se_ratio)) if stage.se_ratio else 0,
                        skip=stage.skip and declared == 1 and filters == stage.out_filters,
                        drop_path=self.drop_path_rate * index / total,
                    )
                )
                reached *= stride
                dilation *= declared // stride
                filters = expanded_from = stage.out_filters
                index += 1
            resolved.append(tuple(blocks))
        return tuple(resolved)

    def parameters(self, *, num_classes: int = 1000, in_chans: int = 3) -> int:
        """Number of learnable parameters (batch norm's running statistics are not counted).

        Raises:
            SpecError: If num_classes is negative or in_chans below 1.
        """
        _check_whole("num_classes + 1", num_classes + 1)
        convs = sum(conv.parameters for conv in self._convolutions(in_chans))
        return convs + (self.head_filters + 1) * num_classes

    def macs(self, *, size: int | None = None, num_classes: int = 1000, in_chans: int = 3) -> int:
        """Multiply-accumulates of one square image in the convolutions and the classifier.

        Args:
            size: Side in pixels; by default `image_size`.
            num_classes: Classes of the classifier.
            in_chans: Channels of the image.

        Raises:
            SpecError: If size or in_chans is below 1, or num_classes negative.
        """
        side, total = self.image_size if size is None else size, self.head_filters * num_classes
        _check_whole("size", side)
        _check_whole("num_classes + 1", num_classes + 1)
        for conv in self._convolutions(in_chans):
            side = math.ceil(side / conv.stride)
            total += conv.weights * (1 if conv.on_pooled else side * side)
        return total

    def _convolutions(self, in_chans: int) -> Iterator["_Convolution"]:
        _check_whole("in_chans", in_chans)
        yield _Convolution(in_chans, self.stem_filters, kernel=3, stride=2)
        for stage in self.blocks():
            for block in stage:
                yield from _block_convolutions(block)
        yield _Convolution(self.stages[-1].out_filters, self.head_filters)


@dataclass(frozen=True, slots=True)
class _Convolution:
    """A convolution's cost: with a bias on the pooled map (squeeze-excite), else with batch norm's two vectors."""

    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    on_pooled: bool = False

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs * self.kernel**2

    @property
    def parameters(self) -> int:
        return self.weights + self.outputs * (1 if self.on_pooled else 2)


def _block_convolutions(block: BlockSpec) -> Iterator[_Convolution]:
    if block.kind == "conv":
        yield _Convolution(block.in_filters, block.out_filters, block.kernel, block.stride)
        return
    if block.kind == "fused":
        yield _Convolution(block.in_filters, block.mid_filters, block.kernel, block.stride)
    else:
        if block.kind == "mbconv":
            yield _Convolution(block.in_filters, block.mid_filters)
        yield _Convolution(1, block.mid_filters, block.kernel, block.stride)  # depthwise: one input each
    if block.se_filters:
        yield _Convolution(block.mid_filters, block.se_filters, on_pooled=True)
        yield _Convolution(block.se_filters, block.mid_filters, on_pooled=True)
    yield _Convolution(block.mid_filters, block.out_filters)


def _kind(stage: StageSpec) -> BlockKind:
    if stage.fused:
        return "conv" if stage.expand == 1 else "fused"
    return "separable" if stage.expand == 1 else "mbconv"


def decode_stages(stages: Stages, *, stem: int) -> tuple[StageSpec, ...]:
    """Read stages in whichever of the two notations they are written in.

    Raises:
        SpecError: If one is malformed, or the notations are mixed.
    """
    blocks = [stage for stage in stages if isinstance(stage, str)]
    rows = [stage for stage in stages if not isinstance(stage, str)]
    if blocks and rows:
        raise SpecError(f"stages {_shown(stages)}: expected all block strings or all rows")
    return decode_blocks(blocks) if blocks else decode_rows(rows, stem=stem)


def variant_spec(family: Family, variant: Variant) -> ArchSpec:
    """The network that a row of a family's table declares.

    Raises:
        SpecError: If the declaration is malformed.
    """
    return ArchSpec.build(
        decode_stages(variant.stages, stem=variant.stem),
        stem=variant.stem,
        head=family.head,
        scaling=Scaling(
            width=variant.width,
            depth=variant.depth,
            round_limit=family.round_limit,
            scale_ends=family.scale_ends,
        ),
        activation=family.activation,
        padding=family.padding,
        bn_eps=family.bn_eps,
        bn_momentum=family.bn_momentum,
        drop_rate=variant.dropout,
        drop_path_rate=family.drop_path,
        image_size=variant.eval_size,
        first_expansion_as_declared=family.first_expansion_as_declared,
    )
