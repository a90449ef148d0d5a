"""A stage, and the two notations it is written in: block strings, and rows ``(t, c, n, s, fused)``.

Both are decoded into `StageSpec` and encoded back here, and exist nowhere else. Nothing here needs torch.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from effnet_zoo.arch.checks import MAX_WHOLE, check_flag, check_number, check_whole, is_whole
from effnet_zoo.arch.families import Stages
from effnet_zoo.errors import SpecError, quoted

Row = tuple[int, int, int, int, int]

ROW_KERNEL = 3
ROW_SE_RATIO = 0.25

_WHOLE = re.compile(r"[1-9][0-9]{0,5}")
_RATIO = re.compile(r"(0|1)(\.[0-9]{1,9})?")
_TOKEN = re.compile(r"([a-z]+)(.*)", re.DOTALL)
_FIELDS = {"r": "repeats", "k": "kernel", "s": "stride", "e": "expand", "i": "in_filters", "o": "out_filters"}
_KEYS = (*_FIELDS, "se", "c", "noskip")


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
        for field in ("repeats", "kernel", "stride", "expand", "in_filters", "out_filters"):
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

    Examples are ``r2_k3_s22_e6_i16_o24_se0.25``, and ``r4_k3_s2_e4_i24_o48_c1`` in the form of Google's V2 code.

    Args:
        text: Tokens joined by underscores, in any order: r, k, s, e, i and o once each, with a whole number (s also
            twice the same digit); optionally ``se`` with a ratio, ``c`` with 0 or 1 (1 = fused) and ``noskip``.

    Raises:
        SpecError: Quoting the token that is wrong and what was expected in its place.
    """
    if not isinstance(text, str):
        raise SpecError(f"block string {quoted(text)}: expected text such as 'r2_k3_s22_e6_i16_o24_se0.25'")

    def wrong(token: str, expected: str) -> SpecError:
        return SpecError(f"block string {quoted(text)}, token {quoted(token)}: expected {expected}")

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
        raise SpecError(f"block string {quoted(text)}: expected also the keys {', '.join(missing)}")
    if numbers["kernel"] % 2 == 0:
        raise wrong(f"k{numbers['kernel']}", "an odd kernel")
    if fused and se_ratio:
        raise wrong("c1", "no se beside it: fused blocks have no squeeze-excite")
    return StageSpec(**numbers, se_ratio=se_ratio, skip=skip, fused=fused)


def encode_block(stage: StageSpec) -> str:
    """Return a stage as a block string, which `decode_block` reads back as the same stage.

    Raises:
        SpecError: If the squeeze-excite ratio cannot be written with nine decimals.
    """
    if not isinstance(stage, StageSpec):
        raise SpecError(f"{quoted(stage)}: expected a StageSpec")
    tokens = [f"{key}{getattr(stage, field)}" for key, field in _FIELDS.items()]
    tokens[2] = f"s{stage.stride}{stage.stride}"
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
        rows: One row for each stage: expansion, output filters, repeats, stride, and 1 for fused or 0 for MBConv.
        stem: Filters that enter the first stage.

    Raises:
        SpecError: Naming the row and the column that is wrong.
    """
    if isinstance(rows, str | bytes) or not isinstance(rows, Sequence):
        raise SpecError(f"rows {quoted(rows)}: expected a list of (t, c, n, s, fused), one a stage")
    stages: list[StageSpec] = []
    for number, row in enumerate(rows, start=1):
        if isinstance(row, str | bytes) or not isinstance(row, Sequence) or len(row) != len(get_args(Row)):
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
            if getattr(stage, field) != value:
                raise SpecError(
                    f"stage {number} has {field}={getattr(stage, field)}: rows can only express {value}; "
                    "write it as block strings"
                )
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


def decode_stages(stages: Stages, *, stem: int) -> tuple[StageSpec, ...]:
    """Return stages from either notation.

    Raises:
        SpecError: If a stage is malformed, or the notations are mixed.
    """
    blocks = [stage for stage in stages if isinstance(stage, str)]
    rows = [stage for stage in stages if not isinstance(stage, str)]
    if blocks and rows:
        raise SpecError(f"stages {quoted(stages)}: expected all block strings or all rows")
    return decode_blocks(blocks) if blocks else decode_rows(rows, stem=stem)
