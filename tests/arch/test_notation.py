"""Both notations are read and written back, and any other input is a stage or a SpecError."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from effnet_zoo.arch.families import FAMILIES, V2_S, Variant
from effnet_zoo.arch.notation import (
    StageSpec,
    decode_block,
    decode_blocks,
    decode_rows,
    encode_block,
    encode_rows,
)
from effnet_zoo.errors import SpecError, quoted
from tests.arch.stages import VALID, examples, network, stage_spec, whole_numbers

# Every ratio that a block string can hold: up to nine decimals, above 0 and up to 1.
ratios = st.integers(1, 10**9).map(lambda billionths: float(f"{billionths}e-9"))


@st.composite
def stage_specs(draw: st.DrawFn) -> StageSpec:
    fused = draw(st.booleans())
    return StageSpec(
        repeats=draw(whole_numbers),
        kernel=draw(st.integers(0, 499_999)) * 2 + 1,
        stride=draw(st.sampled_from((1, 2))),
        expand=draw(whole_numbers),
        in_filters=draw(whole_numbers),
        out_filters=draw(whole_numbers),
        se_ratio=0.0 if fused else draw(st.just(0.0) | ratios),
        skip=draw(st.booleans()),
        fused=fused,
    )


@st.composite
def dialects(draw: st.DrawFn) -> tuple[StageSpec, str]:
    """A stage, and one of the ways in which people write it."""
    stage = draw(stage_specs())
    tokens = encode_block(stage).split("_")
    tokens[2] = draw(st.sampled_from((f"s{stage.stride}", f"s{stage.stride}{stage.stride}")))
    if not stage.fused and draw(st.booleans()):
        tokens.append("c0")
    return stage, "_".join(draw(st.permutations(tokens)))


@examples
@given(stage_specs())
def test_a_stage_survives_being_written_and_read(stage: StageSpec) -> None:
    text = encode_block(stage)
    assert decode_block(text) == stage
    assert encode_block(decode_block(text)) == text


@examples
@given(dialects())
def test_every_dialect_is_read_alike_and_written_in_one_form(written: tuple[StageSpec, str]) -> None:
    stage, text = written
    assert decode_block(text) == stage
    assert encode_block(decode_block(text)) == encode_block(stage)


row_lists = st.lists(
    st.tuples(whole_numbers, whole_numbers, whole_numbers, st.sampled_from((1, 2)), st.sampled_from((0, 1))),
    min_size=1,
    max_size=8,
)


@examples
@given(row_lists, whole_numbers)
def test_rows_survive_being_read_and_written(rows: list[tuple[int, int, int, int, int]], stem: int) -> None:
    stages = decode_rows(rows, stem=stem)
    assert encode_rows(stages) == rows
    assert decode_rows(encode_rows(stages), stem=stem) == stages
    # The two notations are one model: what rows say can be said in block strings too.
    assert decode_blocks([encode_block(stage) for stage in stages]) == stages


@pytest.mark.parametrize("variant", [v for f in FAMILIES for v in f.variants], ids=lambda variant: str(variant.name))
def test_every_declaration_survives_being_read_and_written(variant: Variant) -> None:
    declared: Any = variant.stages
    if isinstance(declared[0], str):
        assert tuple(encode_block(stage) for stage in decode_blocks(declared)) == declared
    else:
        assert tuple(encode_rows(decode_rows(declared, stem=variant.stem))) == declared


numbers_and_texts = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=6)
)


anything = st.recursive(
    numbers_and_texts | st.just(VALID) | st.just((1, 24, 2, 1, 1)),
    lambda inner: (
        st.lists(inner, max_size=6)
        | st.lists(inner, min_size=5, max_size=5).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=12,
)


@st.composite
def mutated_blocks(draw: st.DrawFn) -> str:
    """A valid block string after a few small accidents."""
    text = draw(dialects())[1]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)))
        until = at + draw(st.integers(0, 2))
        text = text[:at] + draw(st.text(alphabet="rkseio_cnp0123459.-+ R٢", max_size=2)) + text[until:]
    return text


def outcome(read: Callable[[Any], object], value: object) -> object:
    """What reading gives: a result or the error. Any other exception than ours goes through and fails the test."""
    try:
        return read(value)
    except SpecError as error:
        return error


def assert_read_or_refused(text: str) -> None:
    result = outcome(decode_block, text)
    if isinstance(result, StageSpec):
        assert decode_block(encode_block(result)) == result
    else:
        assert quoted(text) in str(result)


@examples
@given(st.text() | st.text(alphabet="rkseiocnp_0123456789.", max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert_read_or_refused(text)


@examples
@given(mutated_blocks())
def test_a_mutated_block_string_is_read_or_refused(text: str) -> None:
    assert_read_or_refused(text)


@pytest.mark.parametrize("read", [decode_block, decode_blocks, lambda value: decode_rows(value, stem=24)])
@examples
@given(value=anything)
def test_any_value_is_read_or_refused(read: Callable[[Any], object], value: object) -> None:
    result = outcome(read, value)
    if isinstance(result, SpecError):
        assert "expected" in str(result)
    else:
        stages = result if isinstance(result, tuple) else (result,)
        assert stages
        assert all(isinstance(stage, StageSpec) for stage in stages)


@pytest.mark.parametrize(
    ("text", "stage"),
    [
        ("r2_k3_s2_e6_i16_o24_se0.25", stage_spec()),
        ("r2_k3_s22_e6_i16_o24_se0.25", stage_spec()),
        ("se0.25_o24_i16_e6_s22_k3_r2", stage_spec()),
        ("r2_k3_s1_e6_i16_o24_se0.25", stage_spec(stride=1)),
        ("r2_k3_s11_e6_i16_o24_se0.25", stage_spec(stride=1)),
        ("r2_k3_s2_e6_i16_o24_se1", stage_spec(se_ratio=1.0)),
        ("r2_k3_s2_e6_i16_o24_se0.250", stage_spec()),
        ("r2_k3_s2_e6_i16_o24", stage_spec(se_ratio=0.0)),
        ("r2_k3_s2_e6_i16_o24_c0_se0.25", stage_spec()),
        ("r2_k3_s2_e6_i16_o24_c1", stage_spec(se_ratio=0.0, fused=True)),
        ("r2_k3_s2_e6_i16_o24_c1_noskip", stage_spec(se_ratio=0.0, fused=True, skip=False)),
        ("noskip_r2_k3_s2_e6_i16_o24_se0.25", stage_spec(skip=False)),
    ],
)
def test_a_dialect_is_read(text: str, stage: StageSpec) -> None:
    assert decode_block(text) == stage


def test_v2_s_in_google_s_strings_is_v2_s_in_rows() -> None:
    google = (
        "r2_k3_s1_e1_i24_o24_c1",
        "r4_k3_s2_e4_i24_o48_c1",
        "r4_k3_s2_e4_i48_o64_c1",
        "r6_k3_s2_e4_i64_o128_se0.25",
        "r9_k3_s1_e6_i128_o160_se0.25",
        "r15_k3_s2_e6_i160_o256_se0.25",
    )
    assert decode_blocks(google) == decode_rows(V2_S, stem=24) == network("v2_s").stages
