"""Malformed strings, rows and values are refused, and the error names the token, row or field and what was expected."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest

from effnet_zoo.arch.families import EDGETPU, FAMILIES
from effnet_zoo.arch.notation import (
    StageSpec,
    decode_block,
    decode_blocks,
    decode_rows,
    encode_block,
    encode_rows,
)
from effnet_zoo.arch.spec import ArchSpec, Scaling, variant_spec
from effnet_zoo.errors import EffnetZooError, SpecError, quoted
from tests.arch.stages import VALID, network, stage_spec


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


@pytest.mark.parametrize("output_stride", [0, 1, 2, 4, 12, 64, "16"])
def test_another_output_stride_is_refused(output_stride: Any) -> None:
    with pytest.raises(SpecError) as caught:
        B0.blocks(output_stride=output_stride)
    assert str(caught.value) == f"output_stride={output_stride!r}: expected 8, 16, 32"


@pytest.mark.parametrize("stages", [EDGETPU, ("r1_k3_s11_e1_i24_o24_c1",)])
def test_a_first_stage_that_does_not_take_what_the_stem_gives_is_refused(stages: tuple[str, ...]) -> None:
    with pytest.raises(SpecError, match="stage 1 takes i24, but the stem gives 32: expected i32"):
        ArchSpec.build(decode_blocks(stages), stem=32)


def test_without_an_expansion_there_is_nothing_to_declare_otherwise() -> None:
    with pytest.raises(SpecError, match="stage 1 takes i24, but the stem gives 32: expected i32"):
        ArchSpec.build(decode_blocks(["r1_k3_s11_e1_i24_o24_c1"]), stem=32, first_expansion_as_declared=True)


def test_mixed_notations_are_refused() -> None:
    for mixed in (("r1_k3_s11_e1_i32_o16", (1, 24, 2, 1, 1)), ((1, 24, 2, 1, 1), "r1_k3_s11_e1_i32_o16")):
        stages: Any = mixed
        with pytest.raises(SpecError, match="expected text such as|expected five whole numbers"):
            variant_spec(FAMILIES[0], dataclasses.replace(FAMILIES[0].variants[0], stages=stages))


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
