"""Both notations are read strictly and written back, and every number of every block follows from them."""

import dataclasses
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from effnet_zoo.arch import efficientnet, efficientnetv2
from effnet_zoo.arch.blocks import BlockSpec
from effnet_zoo.arch.families import FAMILIES, Variant
from effnet_zoo.arch.notation import (
    StageSpec,
    decode_block,
    decode_blocks,
    decode_rows,
    decode_stages,
    encode_block,
    encode_rows,
)
from effnet_zoo.arch.scaling import Scaling
from effnet_zoo.arch.spec import ArchSpec, variant_spec
from effnet_zoo.errors import EffnetZooError, SpecError, quoted

# The machines that run this are shared: a slow example is no failure.
examples = settings(deadline=None, max_examples=200)

VALID = "r2_k3_s22_e6_i16_o24_se0.25"


def stage_spec(**changes: Any) -> StageSpec:
    return dataclasses.replace(
        StageSpec(repeats=2, kernel=3, stride=2, expand=6, in_filters=16, out_filters=24, se_ratio=0.25), **changes
    )


def network(name: str) -> ArchSpec:
    """A declared network by the name of its timm model without our prefix."""
    return next(
        variant_spec(family, variant)
        for family in FAMILIES
        for variant in family.variants
        if (family.timm_prefix + variant.name).removeprefix("effnet_zoo_") == name
    )


def with_token(key: str, token: str) -> str:
    """The valid block string with the token of one key replaced."""
    return "_".join(token if part.rstrip("0123456789.") == key else part for part in VALID.split("_"))


WHOLE = "a whole number from 1 to 999999"
KEYS = "one of the keys r, k, s, e, i, o, se, c, noskip and its value"
STRIDE = "a square stride of 1 or 2: s1, s2, s11 or s22"
RATIO = "a decimal above 0 and up to 1"

MALFORMED_BLOCKS = [
    # (text, the token that the message quotes, what it says was expected)
    ("", "''", KEYS),
    (" ", "' '", KEYS),
    (VALID + "_", "''", KEYS),
    (VALID.replace("_", "__"), "''", KEYS),
    (VALID.replace("_", "-"), repr(VALID.replace("_", "-")), WHOLE),
    (VALID + "_z3", "'z3'", KEYS),
    (VALID + "_cc4", "'cc4'", KEYS),
    ("ir_" + VALID, "'ir'", KEYS),  # timm's notation starts with the kind of block
    (VALID + "_noskip1", "'noskip1'", "noskip without a value"),
    (VALID + "_skip", "'skip'", KEYS),
    (VALID + "_c2", "'c2'", "c0 (MBConv) or c1 (Fused-MBConv)"),
    (VALID + "_c", "'c'", "c0 (MBConv) or c1 (Fused-MBConv)"),
    (VALID + "_c01", "'c01'", "c0 (MBConv) or c1 (Fused-MBConv)"),
    (VALID + "_c1", "'c1'", "no se beside it: fused blocks have no squeeze-excite"),
    (VALID + "_r2", "'r2'", "r only once"),
    (VALID + "_s1", "'s1'", "s only once"),
    (VALID + "_se0.5", "'se0.5'", "se only once"),
    (VALID + "_c0_c0", "'c0'", "c only once"),
    (VALID + "_noskip_noskip", "'noskip'", "noskip only once"),
    (with_token("r", "r0"), "'r0'", WHOLE),
    (with_token("r", "r-1"), "'r-1'", WHOLE),
    (with_token("r", "r+1"), "'r+1'", WHOLE),
    (with_token("r", "r02"), "'r02'", WHOLE),
    (with_token("r", "r"), "'r'", WHOLE),
    (with_token("r", "r2.0"), "'r2.0'", WHOLE),
    (with_token("r", "r1e1"), "'r1e1'", WHOLE),
    (with_token("r", "r 2"), "'r 2'", WHOLE),
    (with_token("r", "r2 "), "'r2 '", WHOLE),
    (with_token("r", " r2"), "' r2'", KEYS),
    (with_token("o", "o24\n"), "'o24\\n'", WHOLE),
    (with_token("r", "R2"), "'R2'", KEYS),
    (with_token("r", "r٢"), "'r٢'", WHOLE),  # int() would read this as 2
    (with_token("r", "r1٢"), "'r1٢'", WHOLE),
    (with_token("r", "r²"), "'r²'", WHOLE),
    (with_token("e", "e1000000"), "'e1000000'", WHOLE),
    (with_token("i", "i" + "9" * 5000), "'i999", WHOLE),  # int() refuses this many digits with a bare ValueError
    (with_token("k", "k4"), "'k4'", "an odd kernel"),
    (with_token("k", "k0"), "'k0'", WHOLE),
    (with_token("k", "k3x5"), "'k3x5'", WHOLE),
    (with_token("s", "s3"), "'s3'", STRIDE),
    (with_token("s", "s0"), "'s0'", STRIDE),
    (with_token("s", "s12"), "'s12'", STRIDE),
    (with_token("s", "s21"), "'s21'", STRIDE),
    (with_token("s", "s33"), "'s33'", STRIDE),
    (with_token("s", "s222"), "'s222'", STRIDE),
    (with_token("s", "s"), "'s'", STRIDE),
    (with_token("se", "se"), "'se'", RATIO),
    (with_token("se", "se0"), "'se0'", "leave se out for none"),
    (with_token("se", "se0.0"), "'se0.0'", "leave se out for none"),
    (with_token("se", "se1.5"), "'se1.5'", RATIO),
    (with_token("se", "se2"), "'se2'", RATIO),
    (with_token("se", "se-0.25"), "'se-0.25'", RATIO),
    (with_token("se", "se.25"), "'se.25'", RATIO),
    (with_token("se", "se1e-1"), "'se1e-1'", RATIO),
    (with_token("se", "se0.٢"), "'se0.٢'", RATIO),
    (with_token("se", "senan"), "'senan'", KEYS),
    (with_token("se", "se0.0000000001"), "'se0.0000000001'", RATIO),
]


@pytest.mark.parametrize(("text", "token", "expected"), MALFORMED_BLOCKS)
def test_a_malformed_block_string_is_refused_with_its_token(text: str, token: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        decode_block(text)
    # The whole string is quoted too: its token alone is hard to find in a list of seven.
    assert str(caught.value).startswith(f"block string {quoted(text)}")
    assert f"token {token}" in str(caught.value)
    assert expected in str(caught.value).partition("expected ")[2]


@pytest.mark.parametrize("key", ["r", "k", "s", "e", "i", "o"])
def test_a_missing_key_is_named(key: str) -> None:
    text = "_".join(part for part in VALID.split("_") if part.rstrip("0123456789.") != key)
    with pytest.raises(SpecError) as caught:
        decode_block(text)
    assert str(caught.value) == f"block string {quoted(text)}: expected also the keys {key}"


def test_all_missing_keys_are_named_at_once() -> None:
    with pytest.raises(SpecError, match="expected also the keys k, s, i, o"):
        decode_block("r1_e6_noskip")


MALFORMED_LISTS: list[tuple[Callable[[Any], object], object, str, str]] = [
    # (reader, what it is given, the part of the message that quotes the mistake, what was expected)
    (decode_block, None, "block string None", "text such as"),
    (decode_block, 7, "block string 7", "text such as"),
    (decode_block, b"r1", "block string b'r1'", "text such as"),
    (decode_block, [VALID], f"block string ['{VALID}']", "text such as"),
    (decode_blocks, VALID, f"block strings '{VALID}'", "a list of strings, one a stage"),
    (decode_blocks, None, "block strings None", "a list of strings, one a stage"),
    (decode_blocks, {VALID}, "block strings {", "a list of strings, one a stage"),
    (decode_blocks, iter([VALID]), "block strings <list_iterator", "a list of strings, one a stage"),
    (decode_blocks, [], "no stages", "at least one block string or row"),
    (decode_blocks, [VALID, 3], "block string 3", "text such as"),
    (decode_blocks, [VALID, ""], "token ''", KEYS),
    (decode_blocks, [VALID, VALID], "stage 2 takes i16, but stage 1 gives o24", "i24"),
    (ArchSpec.from_blocks, [VALID], "stage 1 takes i16, but the stem gives 32", "i32"),
    (ArchSpec.from_blocks, [], "no stages", "at least one block string or row"),
]


@pytest.mark.parametrize(("read", "given_", "quoted", "expected"), MALFORMED_LISTS)
def test_a_malformed_list_of_block_strings_is_refused(
    read: Callable[[Any], object], given_: object, quoted: str, expected: str
) -> None:
    with pytest.raises(SpecError) as caught:
        read(given_)
    assert quoted in str(caught.value)
    assert expected in str(caught.value).partition("expected ")[2]


AT_LEAST_1 = "a whole number from 1 to 999999"
FIVE = "five whole numbers (t, c, n, s, fused)"

MALFORMED_ROWS: list[tuple[object, str, str]] = [
    # (rows, the part of the message that quotes the mistake, what was expected)
    ("(1, 24, 2, 1, 1)", "rows '(1, 24, 2, 1, 1)'", "a list of (t, c, n, s, fused), one a stage"),
    (None, "rows None", "a list of (t, c, n, s, fused), one a stage"),
    (3, "rows 3", "a list of (t, c, n, s, fused), one a stage"),
    ({(1, 24, 2, 1, 1)}, "rows {(1, 24, 2, 1, 1)}", "a list of (t, c, n, s, fused), one a stage"),
    ([], "no stages", "at least one block string or row"),
    ((1, 24, 2, 1, 1), "row 1, 1", FIVE),  # one row instead of a list of rows
    ([()], "row 1, ()", FIVE),
    ([(1, 24, 2, 1)], "row 1, (1, 24, 2, 1)", FIVE),
    ([(1, 24, 2, 1, 1), (1, 24, 2, 1, 1, 0)], "row 2, (1, 24, 2, 1, 1, 0)", FIVE),
    (["12345"], "row 1, '12345'", FIVE),
    ([None], "row 1, None", FIVE),
    ([VALID], f"row 1, '{VALID}'", FIVE),
    ([(1, 24, 2, 1, 2)], "row 1, fused=2", "1 (Fused-MBConv) or 0 (MBConv)"),
    ([(1, 24, 2, 1, -1)], "row 1, fused=-1", "1 (Fused-MBConv) or 0 (MBConv)"),
    ([(1, 24, 2, 1, True)], "row 1, fused=True", "1 (Fused-MBConv) or 0 (MBConv)"),
    ([(1, 24, 2, 1, "1")], "row 1, fused='1'", "1 (Fused-MBConv) or 0 (MBConv)"),
    ([(1, 24, 2, 1, 0.25)], "row 1, fused=0.25", "1 (Fused-MBConv) or 0 (MBConv)"),  # the original column: SE
    ([(1, 24, 2, 3, 1)], "row 1, (1, 24, 2, 3, 1): stride=3", "1 or 2"),
    ([(1, 24, 2, 0, 1)], "row 1, (1, 24, 2, 0, 1): stride=0", AT_LEAST_1),
    ([(1, 24, 2, 1, 1), (-4, 48, 4, 2, 1)], "row 2, (-4, 48, 4, 2, 1): expand=-4", AT_LEAST_1),
    ([(0, 24, 2, 1, 1)], "row 1, (0, 24, 2, 1, 1): expand=0", AT_LEAST_1),
    ([(1.0, 24, 2, 1, 1)], "expand=1.0", AT_LEAST_1),
    ([(True, 24, 2, 1, 1)], "expand=True", AT_LEAST_1),
    ([(1, "24", 2, 1, 1)], "out_filters='24'", AT_LEAST_1),
    ([(1, 0, 2, 1, 1)], "out_filters=0", AT_LEAST_1),
    ([(1, 24, 0, 1, 1)], "repeats=0", AT_LEAST_1),
    ([(1, 24, None, 1, 1)], "repeats=None", AT_LEAST_1),
    ([(1, 24, math.nan, 1, 1)], "repeats=nan", AT_LEAST_1),
]


@pytest.mark.parametrize(("rows", "quoted", "expected"), MALFORMED_ROWS)
def test_a_malformed_row_is_refused_with_its_number_and_column(rows: Any, quoted: str, expected: str) -> None:
    with pytest.raises(SpecError) as caught:
        decode_rows(rows, stem=24)
    assert quoted in str(caught.value)
    assert expected in str(caught.value).partition("expected ")[2]


@pytest.mark.parametrize("stem", [0, -24, 24.0, "24", None])
def test_a_stem_that_is_no_whole_number_is_refused(stem: Any) -> None:
    with pytest.raises(SpecError, match=r"in_filters=.*: expected a whole number from 1 to 999999"):
        ArchSpec.from_rows([(1, 24, 2, 1, 1)], stem=stem)


WHOLE_STAGE_FIELDS = ("repeats", "kernel", "stride", "expand", "in_filters", "out_filters")
B0 = network("b0")

MALFORMED_VALUES: list[tuple[StageSpec | ArchSpec | Scaling, str, object, str]] = [
    # (a valid object, the field to change, a wrong value, what was expected)
    *((stage_spec(), field, value, AT_LEAST_1) for field in WHOLE_STAGE_FIELDS for value in (0, -1, 1.0, True, "1")),
    (stage_spec(), "kernel", 2, "an odd kernel"),
    (stage_spec(), "stride", 3, "1 or 2"),
    (stage_spec(), "se_ratio", 1.5, "a share of the input filters from 0 to 1"),
    (stage_spec(), "se_ratio", -0.25, "a share of the input filters from 0 to 1"),
    (stage_spec(), "se_ratio", math.nan, "a share of the input filters from 0 to 1"),
    (stage_spec(), "se_ratio", True, "a share of the input filters from 0 to 1"),
    (stage_spec(), "se_ratio", None, "a share of the input filters from 0 to 1"),
    (stage_spec(), "skip", 1, "True or False"),
    (stage_spec(), "fused", 0, "True or False"),
    (Scaling(), "width", 0, "a factor above 0"),
    (Scaling(), "width", -1.0, "a factor above 0"),
    (Scaling(), "width", math.nan, "a factor above 0"),
    (Scaling(), "width", math.inf, "a factor above 0"),
    (Scaling(), "width", "1.1", "a factor above 0"),
    (Scaling(), "depth", 0.0, "a factor above 0"),
    (Scaling(), "depth", True, "a factor above 0"),
    (Scaling(), "divisor", 0, AT_LEAST_1),
    (Scaling(), "divisor", 8.0, AT_LEAST_1),
    (B0, "stem_filters", 0, AT_LEAST_1),
    (B0, "head_filters", -1280, AT_LEAST_1),
    (B0, "head_filters", 1280.0, AT_LEAST_1),
    (B0, "image_size", 0, AT_LEAST_1),
    (B0, "padding", "valid", "same or symmetric"),
    (B0, "padding", None, "same or symmetric"),
    (B0, "activation", "sillu", "silu or relu or relu6. Did you mean 'silu'"),
    (B0, "activation", "swish", "silu or relu or relu6"),
    (B0, "activation", ["silu"], "silu or relu or relu6"),
    (B0, "bn_eps", 0, "a number from 1e-12 to 1"),
    (B0, "bn_eps", -1e-3, "a number from 1e-12 to 1"),
    (B0, "bn_eps", math.nan, "a number from 1e-12 to 1"),
    (B0, "bn_eps", "1e-3", "a number from 1e-12 to 1"),
    (B0, "bn_momentum", 0.0, "a number from 1e-12 to 1"),
    (B0, "bn_momentum", 1.5, "a number from 1e-12 to 1"),
    (B0, "drop_rate", 2, "a number from 0 to 1"),
    (B0, "drop_rate", -0.1, "a number from 0 to 1"),
    (B0, "drop_rate", False, "a number from 0 to 1"),
    (B0, "drop_path_rate", math.inf, "a number from 0 to 1"),
]


@pytest.mark.parametrize(("valid", "field", "value", "expected"), MALFORMED_VALUES)
def test_a_value_outside_its_bounds_is_refused(
    valid: StageSpec | ArchSpec | Scaling, field: str, value: Any, expected: str
) -> None:
    with pytest.raises(SpecError) as caught:
        dataclasses.replace(valid, **{field: value})
    assert str(caught.value).startswith(f"{field}={value!r}: expected {expected}")


def test_a_fused_stage_with_squeeze_excite_is_refused() -> None:
    with pytest.raises(SpecError, match=r"se_ratio=0\.25 in a fused stage: fused blocks have no squeeze-excite"):
        stage_spec(fused=True)


def test_a_network_without_stages_or_with_a_broken_chain_is_refused() -> None:
    with pytest.raises(SpecError, match="no stages: expected at least one block string or row"):
        dataclasses.replace(B0, stages=())
    with pytest.raises(SpecError, match="stage 2 takes i24, but stage 1 gives o16: expected i16"):
        dataclasses.replace(B0, stages=(B0.stages[0], *B0.stages[2:]))
    with pytest.raises(SpecError, match="stage 1 takes i32, but the stem gives 24: expected i24"):
        dataclasses.replace(B0, stem_filters=24)


def test_a_spec_error_is_the_package_s_and_a_value_error() -> None:
    assert issubclass(SpecError, EffnetZooError)
    assert issubclass(SpecError, ValueError)


# -- What is read is written back, and the other way round --------------------------------------------------------

whole_numbers = st.integers(1, 999_999)
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


@pytest.mark.parametrize(
    ("changes", "quoted"),
    [
        ({"kernel": 5}, "kernel=5: rows can only express 3"),
        ({"se_ratio": 0.5}, "se_ratio=0.5: rows can only express 0.25"),
        ({"se_ratio": 0.0}, "se_ratio=0.0: rows can only express 0.25"),
        ({"skip": False}, "skip=False: rows can only express True"),
        ({"skip": False, "se_ratio": 0.0, "fused": True}, "skip=False: rows can only express True"),
    ],
)
def test_a_stage_that_rows_cannot_express_is_refused(changes: dict[str, Any], quoted: str) -> None:
    with pytest.raises(SpecError) as caught:
        encode_rows([stage_spec(), stage_spec(**changes)])
    assert str(caught.value) == f"stage 2 has {quoted}; write it as block strings"


@pytest.mark.parametrize("ratio", [1 / 3, 1e-10, 0.1 + 0.2])
def test_a_ratio_that_block_strings_cannot_express_is_refused(ratio: float) -> None:
    # Written with nine decimals it would be read back as another number.
    with pytest.raises(SpecError, match="expected at most nine decimals in a block string"):
        encode_block(stage_spec(se_ratio=ratio))


@pytest.mark.parametrize("variant", [v for f in FAMILIES for v in f.variants], ids=lambda variant: str(variant.name))
def test_every_declaration_survives_being_read_and_written(variant: Variant) -> None:
    stages = decode_stages(variant.stages, stem=variant.stem)
    if isinstance(variant.stages[0], str):
        assert tuple(encode_block(stage) for stage in stages) == variant.stages
    else:
        assert tuple(encode_rows(stages)) == variant.stages


# -- Whatever is given, the answer is a spec or a SpecError -------------------------------------------------------

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


# -- Dialects ---------------------------------------------------------------------------------------------------


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
    assert decode_blocks(google) == decode_rows(efficientnetv2.S, stem=24) == network("v2_s").stages


# -- Scaling ----------------------------------------------------------------------------------------------------


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


# -- Blocks -----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("output_stride", [0, 1, 2, 4, 12, 64, "16"])
def test_another_output_stride_is_refused(output_stride: Any) -> None:
    with pytest.raises(SpecError) as caught:
        B0.blocks(output_stride=output_stride)
    assert str(caught.value) == f"output_stride={output_stride!r}: expected 8, 16, 32"


def test_edgetpu_s_first_stage_expands_what_it_declares() -> None:
    # The official string says i24, the stem gives 32: the expansion multiplies 24, the convolution reads 32.
    first = network("es").blocks()[0][0]
    assert (first.kind, first.in_filters, first.mid_filters, first.out_filters) == ("fused", 32, 96, 24)
    assert not first.skip


@pytest.mark.parametrize("stages", [efficientnet.EDGETPU, ("r1_k3_s11_e1_i24_o24_c1",)])
def test_a_first_stage_that_does_not_take_what_the_stem_gives_is_refused(stages: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="stage 1 takes i24, but the stem gives 32: expected i32"):
        ArchSpec.build(decode_blocks(stages), stem=32)


def test_without_an_expansion_there_is_nothing_to_declare_otherwise() -> None:
    with pytest.raises(SpecError, match="stage 1 takes i24, but the stem gives 32: expected i32"):
        ArchSpec.build(decode_blocks(["r1_k3_s11_e1_i24_o24_c1"]), stem=32, first_expansion_as_declared=True)


# -- Costs ------------------------------------------------------------------------------------------------------


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


# -- The objects ------------------------------------------------------------------------------------------------

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


# What early fuzzing by hand found.


def test_mixed_notations_are_refused() -> None:
    mixed: Any = ("r1_k3_s11_e1_i32_o16", (1, 24, 2, 1, 1))
    with pytest.raises(SpecError, match="expected all block strings or all rows"):
        decode_stages(mixed, stem=32)


def test_a_network_of_more_strides_keeps_them() -> None:
    deep = ArchSpec.from_rows([(1, 8, 1, 2, 1)] * 6, stem=8)
    assert [stage[0].stride for stage in deep.blocks()] == [2] * 6
    assert [stage[0].stride for stage in deep.blocks(output_stride=32)] == [2] * 4 + [1] * 2


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("stages", ("r1_k3_s11_e1_i32_o16",), "expected a tuple of StageSpec"),
        ("stages", 3, "expected a tuple of StageSpec"),
        ("stages", list(decode_blocks(["r1_k3_s11_e1_i32_o16"])), "expected a tuple of StageSpec"),
        ("first_expansion_as_declared", "no", "expected True or False"),
    ],
)
def test_fields_of_a_network_have_their_types(field: str, value: Any, expected: str) -> None:
    with pytest.raises(SpecError, match=expected):
        dataclasses.replace(B0, **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("round_limit", math.nan),
        ("round_limit", 5),
        ("round_limit", "x"),
        ("scale_ends", 1),
        ("width", 1e308),
        ("depth", 101),
    ],
)
def test_scaling_has_bounds(field: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"{field}="):
        Scaling(**{field: value})


def test_numbers_too_long_to_write_are_refused_all_the_same() -> None:
    with pytest.raises(SpecError, match="a number of thousands of digits"):
        decode_rows([(1, 10**5000, 1, 1, 1)], stem=8)


def test_every_stage_can_be_written_as_a_string() -> None:
    with pytest.raises(SpecError, match="out_filters=1000000"):
        StageSpec(repeats=1, kernel=3, stride=1, expand=1, in_filters=8, out_filters=1_000_000)
    with pytest.raises(SpecError, match="stage 1, 'x': expected a StageSpec"):
        encode_rows(["x"])  # type: ignore[list-item]


@pytest.mark.parametrize("arguments", [{"size": -7}, {"size": 0}, {"num_classes": -5}, {"in_chans": 0}])
def test_costs_of_what_cannot_be_are_refused(arguments: dict[str, int]) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(SpecError, match=f"^{name}={value}: expected a whole number from [01] to 999999"):
        B0.macs(**arguments)


def test_bytes_are_no_row() -> None:
    with pytest.raises(SpecError, match="expected five whole numbers"):
        decode_rows([b"\x01\x18\x02\x01\x01"], stem=24)
