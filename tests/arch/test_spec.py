"""Every number of every block follows from stages and scaling, and the cost from the blocks."""

import dataclasses
import math
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_zoo.arch.blocks import BlockSpec
from effnet_zoo.arch.notation import (
    StageSpec,
    decode_block,
)
from effnet_zoo.arch.spec import ArchSpec, Scaling
from tests.arch.stages import examples, network, stage_spec

B0 = network("b0")


@pytest.mark.parametrize(
    ("filters", "width", "divisor", "scaled"),
    [
        (32, 1.1, 8, 32),  # 35.2
        (16, 1.1, 8, 16),  # 17.6: 16 is 91 %
        (24, 1.4, 8, 32),  # 33.6
        (40, 1.1, 8, 48),  # 44 is half way: up
        (320, 1.1, 8, 352),
        (1280, 4.3, 8, 5504),
        (40, 1.1, 16, 48),
        (40, 1.3, 1, 52),
        (4, 0.5, 8, 8),  # never fewer than the divisor
        (16, 1.2, 8, 24),  # 19.2: 16 would be 83 %
    ],
)
def test_filters_are_rounded_to_the_divisor(filters: int, width: float, divisor: int, scaled: int) -> None:
    assert Scaling(width=width, divisor=divisor).filters(filters) == scaled


def test_v2_rounds_down_where_v1_corrects_upwards() -> None:
    # 16 filters times 1.2 are 19.2; V1's code takes 24 rather than lose more than 10 %, V2's takes 16.
    assert Scaling(width=1.2).filters(16) == 24
    assert Scaling(width=1.2, round_limit=0.0).filters(16) == 16
    assert network("b3").stages[0].out_filters == 24
    assert network("v2_b3").stages[0].out_filters == 16


@examples
@given(st.integers(1, 5000), st.floats(0.1, 10).filter(lambda width: width != 1))
def test_rounding_never_loses_more_than_a_tenth(filters: int, width: float) -> None:
    rounded = Scaling(width=width).filters(filters)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * filters * width)
    assert rounded < filters * width + 12  # up to 4 by rounding, 8 more by the correction


@pytest.mark.parametrize(
    ("repeats", "depth", "scaled"), [(1, 1.0, 1), (1, 1.1, 2), (3, 1.4, 5), (4, 3.1, 13), (2, 0.1, 1)]
)
def test_repeats_are_rounded_up(repeats: int, depth: float, scaled: int) -> None:
    assert Scaling(depth=depth).repeats(repeats) == scaled


def test_lite_s_ends_are_not_scaled() -> None:
    lite, plain = network("lite4"), network("b4")
    assert (lite.stem_filters, lite.head_filters) == (32, 1280)
    assert (plain.stem_filters, plain.head_filters) == (48, 1792)
    assert [stage.repeats for stage in lite.stages] == [1, 4, 4, 6, 6, 8, 1]
    assert [stage.repeats for stage in plain.stages] == [2, 4, 4, 6, 6, 8, 2]
    # What leaves the first and last stage is scaled all the same, what enters the first is the stem's.
    assert [stage.out_filters for stage in lite.stages] == [stage.out_filters for stage in plain.stages]
    assert lite.stages[0].in_filters == 32


def blocks_of(text: str) -> tuple[BlockSpec, ...]:
    """The blocks of a network of one stage."""
    stage = decode_block(text)
    return ArchSpec.build((stage,), stem=stage.in_filters).blocks()[0]


def test_squeeze_width_follows_the_block_s_input() -> None:
    first, second = blocks_of("r2_k3_s2_e6_i16_o24_se0.25")
    assert (first.in_filters, first.mid_filters, first.out_filters, first.se_filters) == (16, 96, 24, 4)
    assert (second.in_filters, second.mid_filters, second.out_filters, second.se_filters) == (24, 144, 24, 6)


@pytest.mark.parametrize(("inputs", "ratio", "squeezed"), [(2, 0.25, 1), (3, 0.1, 1), (10, 0.25, 2), (8, 1, 8)])
def test_squeeze_width_is_rounded_down_to_at_least_1(inputs: int, ratio: float, squeezed: int) -> None:
    assert blocks_of(f"r1_k3_s1_e6_i{inputs}_o8_se{ratio}")[0].se_filters == squeezed


def test_without_a_ratio_there_is_no_squeeze_excite() -> None:
    assert [block.se_filters for block in blocks_of("r2_k3_s2_e6_i16_o24")] == [0, 0]


@pytest.mark.parametrize(
    ("text", "skips"),
    [
        ("r2_k3_s1_e6_i24_o24", [True, True]),
        ("r2_k3_s2_e6_i24_o24", [False, True]),
        ("r2_k3_s1_e6_i16_o24", [False, True]),
        ("r2_k3_s1_e6_i24_o24_noskip", [False, False]),
    ],
)
def test_a_block_skips_only_where_size_and_width_stay(text: str, skips: list[bool]) -> None:
    assert [block.skip for block in blocks_of(text)] == skips


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("r1_k3_s1_e6_i24_o24", "mbconv"),
        ("r1_k3_s1_e1_i24_o24", "separable"),
        ("r1_k3_s1_e4_i24_o24_c1", "fused"),
        ("r1_k3_s1_e1_i24_o24_c1", "conv"),
    ],
)
def test_the_kind_of_block_follows_from_fused_and_expansion(text: str, kind: str) -> None:
    assert [block.kind for block in blocks_of(text)] == [kind]


def test_only_a_stage_s_first_block_strides() -> None:
    assert [(block.stride, block.kernel) for block in blocks_of("r3_k5_s2_e6_i16_o24")] == [(2, 5), (1, 5), (1, 5)]


def test_stochastic_depth_grows_linearly_over_all_blocks() -> None:
    rates = [block.drop_path for stage in B0.blocks() for block in stage]
    assert rates == pytest.approx([0.2 * index / 16 for index in range(16)], rel=1e-12)
    halved = dataclasses.replace(B0, drop_path_rate=0.1)
    assert [block.drop_path for stage in halved.blocks() for block in stage] == pytest.approx([r / 2 for r in rates])


@pytest.mark.parametrize(
    ("output_stride", "strides", "dilations"),
    [
        # Of the first block and of the others of each of B0's seven stages. A block whose own stride became dilation
        # keeps the dilation it was reached with: the finer grid begins behind it.
        (32, [1, 2, 2, 2, 1, 2, 1], [(1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]),
        (16, [1, 2, 2, 2, 1, 1, 1], [(1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 2), (2, 2)]),
        (8, [1, 2, 2, 1, 1, 1, 1], [(1, 1), (1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4)]),
    ],
)
def test_strides_beyond_the_output_stride_become_dilation(
    output_stride: int, strides: list[int], dilations: list[tuple[int, int]]
) -> None:
    deepened = dataclasses.replace(B0, stages=tuple(dataclasses.replace(s, repeats=2) for s in B0.stages))
    stages = deepened.blocks(output_stride=output_stride)
    assert [stage[0].stride for stage in stages] == strides
    assert [(stage[0].dilation, stage[1].dilation) for stage in stages] == dilations
    assert all(stage[1].stride == 1 for stage in stages)
    stem_stride = 2
    assert stem_stride * math.prod(block.stride for stage in stages for block in stage) == output_stride
    # Everything else is as it was: the same weights fit.
    assert [[dataclasses.replace(b, stride=1, dilation=1) for b in stage] for stage in stages] == [
        [dataclasses.replace(b, stride=1, dilation=1) for b in stage] for stage in deepened.blocks()
    ]


def test_a_block_whose_stride_became_dilation_still_does_not_skip() -> None:
    # It keeps size and width now, but its weights were trained without the residual connection.
    stages = ArchSpec.from_blocks(["r1_k3_s2_e1_i8_o8"] * 3, stem=8).blocks(output_stride=8)
    assert [(block.stride, block.skip) for stage in stages for block in stage] == [(2, False), (2, False), (1, False)]


def test_edgetpu_s_first_stage_expands_what_it_declares() -> None:
    # The official string says i24, the stem gives 32: the expansion multiplies 24, the convolution reads 32.
    first = network("es").blocks()[0][0]
    assert (first.kind, first.in_filters, first.mid_filters, first.out_filters) == ("fused", 32, 96, 24)
    assert not first.skip


@pytest.mark.parametrize(
    ("text", "parameters", "macs"),
    [
        # Worked out by hand: stem 3 -> 8 (216 weights, 16 of batch norm), head 8 -> 16 (128, 32), 16 -> 10 (160, 10).
        # A 9 pixel side becomes 5 behind the stem, and 3 behind a stride of 2.
        # separable: depthwise 72 + 16, squeeze 8 -> 4 -> 8 has 32 + 4 + 32 + 8, project 64 + 16
        ("r1_k3_s1_e1_i8_o8_se0.5", 562 + 244, 8760 + 72 * 25 + 64 + 64 * 25),
        # conv has 576 + 16
        ("r1_k3_s1_e1_i8_o8_c1", 562 + 592, 8760 + 576 * 25),
        # fused, stride 2: 1152 + 32, project 128 + 16
        ("r1_k3_s2_e2_i8_o8_c1", 562 + 1328, 216 * 25 + 1152 * 9 + 128 * 9 + 128 * 9 + 160),
        # mbconv: expand 128 + 32, depthwise 144 + 32, squeeze 16 -> 2 -> 16 has 32 + 2 + 32 + 16, project 128 + 16
        ("r1_k3_s1_e2_i8_o8_se0.25", 562 + 562, 8760 + 128 * 25 + 144 * 25 + 64 + 128 * 25),
    ],
)
def test_costs_of_a_network_worked_out_by_hand(text: str, parameters: int, macs: int) -> None:
    spec = ArchSpec.from_blocks([text], stem=8, head=16)
    assert spec.parameters(num_classes=10) == parameters
    assert spec.macs(size=9, num_classes=10) == macs


def test_costs_follow_classes_channels_and_size() -> None:
    assert B0.parameters(num_classes=10) == B0.parameters() - 990 * 1281
    assert B0.parameters(in_chans=1) == B0.parameters() - 2 * 9 * 32
    assert B0.macs(num_classes=10) == B0.macs() - 990 * 1280
    assert B0.macs(in_chans=1) == B0.macs() - 2 * 9 * 32 * 112**2
    assert B0.macs() == B0.macs(size=224) < B0.macs(size=225)


OBJECTS = [stage_spec(), Scaling(width=1.1), B0.blocks()[1][0], B0]


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_specs_are_frozen_slotted_hashable_and_picklable(value: StageSpec | Scaling | BlockSpec | ArchSpec) -> None:
    for field in dataclasses.fields(value):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field.name, getattr(value, field.name))
    assert not hasattr(value, "__dict__")
    copy = pickle.loads(pickle.dumps(value))
    assert copy is not value
    assert copy == value
    assert hash(copy) == hash(value)
    assert {value: 1}[copy] == 1


@pytest.mark.parametrize("value", OBJECTS, ids=lambda value: type(value).__name__)
def test_specs_take_keywords_only(value: StageSpec | Scaling | BlockSpec | ArchSpec) -> None:
    given_ = [getattr(value, field.name) for field in dataclasses.fields(value)]
    make: Any = type(value)
    with pytest.raises(TypeError, match="positional argument"):
        make(*given_)


def test_a_network_of_more_strides_keeps_them() -> None:
    deep = ArchSpec.from_rows([(1, 8, 1, 2, 1)] * 6, stem=8)
    assert [stage[0].stride for stage in deep.blocks()] == [2] * 6
    assert [stage[0].stride for stage in deep.blocks(output_stride=32)] == [2] * 4 + [1] * 2
