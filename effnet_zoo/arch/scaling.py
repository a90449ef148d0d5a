"""Compound scaling: how a family's widths and depths follow from one declaration."""

import dataclasses
import math
from dataclasses import dataclass

from effnet_zoo.arch.checks import check_flag, check_number, check_whole, is_number
from effnet_zoo.arch.notation import StageSpec
from effnet_zoo.errors import SpecError, quoted

MAX_FACTOR = 100
"""Largest factor of width or depth; the widest published network, L2, has 4.3 and 5.3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Compound scaling of filters and repeats (arXiv:1905.11946, section 3.3, and the reference code's rounding).

    Attributes:
        width: Factor of the filters, which are then rounded to a multiple of `divisor`; at 1 they stay as declared.
        depth: Factor of the repeats, which are then rounded up.
        divisor: Number that the filters are rounded to a multiple of; also their minimum.
        round_limit: Share of the scaled filters that rounding must keep; below it, filters are rounded up.
        scale_ends: Whether stem and head are scaled too, and the first and last stage deepened.

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

    def repeats(self, repeats: int) -> int:
        """Return `repeats` times depth, rounded up."""
        return math.ceil(repeats * self.depth)

    def stages(self, stages: tuple[StageSpec, ...]) -> tuple[StageSpec, ...]:
        """Return all stages of a network, scaled."""
        ends = () if self.scale_ends else (0, len(stages) - 1)
        return tuple(
            dataclasses.replace(
                stage,
                repeats=stage.repeats if index in ends else self.repeats(stage.repeats),
                # The stem feeds the first stage: where the stem is not scaled, neither is the input of this stage.
                in_filters=stage.in_filters if index == 0 and not self.scale_ends else self.filters(stage.in_filters),
                out_filters=self.filters(stage.out_filters),
            )
            for index, stage in enumerate(stages)
        )


def round_filters(filters: float, divisor: int, round_limit: float = 0.9) -> int:
    """Return the multiple of `divisor` nearest to `filters`, or the next one where it is below `round_limit`."""
    rounded = max(divisor, int(filters + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < round_limit * filters else rounded
