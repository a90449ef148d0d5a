"""A stage, and the two notations it is written in: block strings, and rows ``(t, c, n, s, fused)``."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from effnet_zoo.arch.checks import MAX_WHOLE, check_flag, check_number, check_whole, is_whole
from effnet_zoo.arch.families import Row
from effnet_zoo.errors import SpecError, quoted

ROW_KERNEL = 3
ROW_SE_RATIO = 0.25

_FIELDS = {"r": "repeats", "k": "kernel", "s": "stride", "e": "expand", "i": "in_filters", "o": "out_filters"}
_WHOLE = f"a whole number from 1 to {MAX_WHOLE}"
_VALUES = {
    **{key: ("[1-9][0-9]{0,5}", f"{key} and {_WHOLE}") for key in _FIELDS},
    "k": ("([1-9][0-9]{0,4})?[13579]", f"k and {_WHOLE}, for an odd kernel"),
    "s": ("1|2|11|22", "a square stride of 1 or 2: s1, s2, s11 or s22"),
    "se": (r"1(\.0{1,9})?|0\.(?=0*[1-9])[0-9]{1,9}", "se and a decimal above 0 and up to 1; leave se out for none"),
    "c": ("0|1", "c0 (MBConv) or c1 (Fused-MBConv)"),
    "noskip": ("", "noskip without a value"),
}
"""For each key of a block string, the regular expression of its value, and what is expected in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpec:
    """One stage: `repeats` blocks of the same kind, of which only the first may change stride and filters.

    Attributes:
        repeats: Number of blocks, at least 1.
        kernel: Side of the depthwise (or fused) convolution, odd.
        stride: Stride of the first block, 1 or 2.
        expand: Expansion ratio, at least 1; 1 means the block has no expansion.
        in_filters: Filters entering the first block.
        out_filters: Filters leaving every block.
        se_ratio: Squeeze width as a share of each block's input filters, above 0 and up to 1; 0 for no squeeze-excite.
        skip: Whether blocks that keep size and width add their input.
        fused: Whether blocks are Fused-MBConv, which has no squeeze-excite, instead of MBConv.

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
        for field in _FIELDS.values():
            check_whole(field, getattr(self, field))
        if self.kernel % 2 == 0:
            raise SpecError(f"kernel={self.kernel}: expected an odd kernel, which has a centre")
        if self.stride not in (1, 2):
            raise SpecError(f"stride={self.stride}: expected 1 or 2")
        check_number("se_ratio", self.se_ratio, 0, 1, "a share of the input filters")
        check_flag("skip", self.skip)
        check_flag("fused", self.fused)
        if self.fused and self.se_ratio:
            raise SpecError(f"se_ratio={self.se_ratio} in a fused stage: fused blocks have no squeeze-excite")


def decode_block(text: str) -> StageSpec:
    """Return the stage of one block string.

    Examples are ``r2_k3_s22_e6_i16_o24_se0.25``, and ``r4_k3_s2_e4_i24_o48_c1`` in the form of Google's V2 code. The
    tokens stand in any order: r, k, s, e, i and o once each, with a whole number (s also twice the same digit);
    optionally ``se`` with a ratio, ``c`` with 0 or 1 (1 = fused) and ``noskip``.
    """
    if not isinstance(text, str):
        raise SpecError(f"block string {quoted(text)}: expected text such as 'r2_k3_s22_e6_i16_o24_se0.25'")

    def wrong(token: str, expected: str) -> SpecError:
        return SpecError(f"block string {quoted(text)}, token {quoted(token)}: expected {expected}")

    values: dict[str, str] = {}
    for token in text.split("_"):
        match = re.fullmatch("([a-z]+)(.*)", token, re.DOTALL)
        key, value = match.groups() if match else ("", "")
        if key not in _VALUES:
            raise wrong(token, f"one of the keys {', '.join(_VALUES)} and its value")
        if key in values:
            raise wrong(token, f"{key} only once")
        pattern, expected = _VALUES[key]
        if not re.fullmatch(pattern, value):
            raise wrong(token, expected)
        values[key] = value
    if missing := [key for key in _FIELDS if key not in values]:
        raise SpecError(f"block string {quoted(text)}: expected also the keys {', '.join(missing)}")
    fused = values.get("c") == "1"
    if fused and "se" in values:
        raise wrong("c1", "no se beside it: fused blocks have no squeeze-excite")
    values["s"] = values["s"][0]
    numbers = {field: int(values[key]) for key, field in _FIELDS.items()}
    return StageSpec(**numbers, se_ratio=float(values.get("se", 0)), skip="noskip" not in values, fused=fused)


def encode_block(stage: StageSpec) -> str:
    """Return a stage as a block string, which `decode_block` reads back as the same stage.

    Raises:
        SpecError: If the squeeze-excite ratio cannot be written with nine decimals.
    """
    if not isinstance(stage, StageSpec):
        raise SpecError(f"{quoted(stage)}: expected a StageSpec")
    tokens = [f"{key}{getattr(stage, field)}" for key, field in _FIELDS.items()]
    tokens[2] += str(stage.stride)  # height and width
    if stage.se_ratio:
        ratio = f"{stage.se_ratio:.9f}".rstrip("0").rstrip(".")
        if float(ratio) != stage.se_ratio:
            raise SpecError(f"se_ratio={quoted(stage.se_ratio)}: expected at most nine decimals in a block string")
        tokens.append(f"se{ratio}")
    if stage.fused:
        tokens.append("c1")
    if not stage.skip:
        tokens.append("noskip")
    return "_".join(tokens)


def decode_blocks(blocks: Sequence[str]) -> tuple[StageSpec, ...]:
    """Return the stages of a network's block strings. Each must take as many filters as the stage before it gives.

    Raises:
        SpecError: If the list is empty, a string is malformed, or a stage does not follow from the stage before it.
    """
    if isinstance(blocks, str) or not isinstance(blocks, Sequence):
        raise SpecError(f"block strings {quoted(blocks)}: expected a list of strings, one a stage")
    stages = tuple(decode_block(text) for text in blocks)
    check_chain(stages)
    return stages


def decode_rows(rows: Sequence[Sequence[int]], *, stem: int) -> tuple[StageSpec, ...]:
    """Return the stages of a network's rows ``(t, c, n, s, fused)``: kernel 3, squeeze-excite 0.25 where not fused.

    Args:
        rows: For each stage: expansion, output filters, repeats, stride, and 1 for fused or 0 for MBConv.
        stem: Filters that enter the first stage.

    Raises:
        SpecError: If a row is wrong. It names the row and the column.
    """
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        raise SpecError(f"rows {quoted(rows)}: expected a list of (t, c, n, s, fused), one a stage")
    stages: list[StageSpec] = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str | bytes) or not isinstance(row, Sequence) or len(row) != 5:
            raise SpecError(f"row {number}, {quoted(row)}: expected five whole numbers (t, c, n, s, fused)")
        t, c, n, s, fused = row
        if not is_whole(fused) or fused not in (0, 1):
            raise SpecError(f"row {number}, fused={quoted(fused)}: expected 1 (Fused-MBConv) or 0 (MBConv)")
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
            raise SpecError(f"row {number}, {quoted(tuple(row))}: {error}") from None
        stages.append(stage)
    check_chain(tuple(stages))
    return tuple(stages)


def encode_rows(stages: Iterable[StageSpec]) -> list[Row]:
    """Return stages as rows, which `decode_rows` reads back with the same stem.

    Raises:
        SpecError: If a stage has a kernel, squeeze-excite or skip that rows cannot express.
    """
    rows: list[Row] = []
    if not isinstance(stages, Iterable):
        raise SpecError(f"{quoted(stages)}: expected several StageSpec")
    for number, stage in enumerate(stages, start=1):
        if not isinstance(stage, StageSpec):
            raise SpecError(f"stage {number}, {quoted(stage)}: expected a StageSpec")
        expected = {"kernel": ROW_KERNEL, "se_ratio": 0.0 if stage.fused else ROW_SE_RATIO, "skip": True}
        for field, value in expected.items():
            if (given := getattr(stage, field)) != value:
                expressed = f"rows can only express {value}; write it as block strings"
                raise SpecError(f"stage {number} has {field}={given}: {expressed}")
        rows.append((stage.expand, stage.out_filters, stage.repeats, stage.stride, int(stage.fused)))
    return rows


def check_chain(stages: tuple[StageSpec, ...]) -> None:
    """Raise SpecError if there is no stage, or a stage does not take as many filters as the stage before it gives."""
    if not stages:
        raise SpecError("no stages: expected at least one block string or row")
    for number in range(1, len(stages)):
        given, wanted = stages[number - 1].out_filters, stages[number].in_filters
        if given != wanted:
            raise SpecError(f"stage {number + 1} takes i{wanted}, but stage {number} gives o{given}: expected i{given}")
