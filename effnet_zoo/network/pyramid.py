"""The feature pyramid: the levels of a network, and how callers choose among them."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

from effnet_zoo.arch.checks import is_whole
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import ArgumentError, quoted

Level = dict[str, Any]
"""One level: ``index`` (0 is the finest), ``module`` (the name of the module that gives it), ``stage`` (0 is the stem,
n the n-th stage), ``num_chs`` (channels) and ``reduction`` (stride)."""


class FeatureInfo(list[Level]):
    """All levels of a network's feature pyramid, fine to coarse, with the methods of timm's ``feature_info``.

    Attributes:
        out_indices: The levels that the model returns.
    """

    def __init__(self, levels: Iterable[Level], out_indices: Sequence[int]) -> None:
        super().__init__(levels)
        self.out_indices = tuple(out_indices)

    @property
    def info(self) -> list[Level]:
        """All levels."""
        return list(self)

    def get(self, key: str, idx: int | Sequence[int] | None = None) -> Any:
        """Return one entry of the levels that the model returns, of the level `idx`, or of several levels."""
        if isinstance(idx, int):
            return self[idx][key]
        return [self[index][key] for index in (self.out_indices if idx is None else idx)]

    def get_dicts(self, keys: Sequence[str] | None = None, idx: int | Sequence[int] | None = None) -> Any:
        """Return some entries (all by default) of the levels that `get` would look at."""
        if isinstance(idx, int):
            return {key: value for key, value in self[idx].items() if keys is None or key in keys}
        return [self.get_dicts(keys, index) for index in (self.out_indices if idx is None else idx)]

    def channels(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("num_chs", idx)

    def reduction(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("reduction", idx)

    def module_name(self, idx: int | Sequence[int] | None = None) -> Any:
        return self.get("module", idx)


def feature_levels(arch: ArchSpec, *, output_stride: int | None) -> list[Level]:
    """Return the levels of a network. A level ends where the next stage halves the map."""
    levels: list[Level] = []
    if arch.stages[0].stride == 2:
        levels.append({"module": "act1", "stage": 0, "num_chs": arch.stem_filters, "reduction": 2})
    reduction = 2
    for number, blocks in enumerate(arch.blocks(output_stride=output_stride), start=1):
        reduction *= math.prod(block.stride for block in blocks)
        if number == len(arch.stages) or arch.stages[number].stride == 2:
            name, filters = f"blocks.{number - 1}", blocks[-1].out_filters
            levels.append({"module": name, "stage": number, "num_chs": filters, "reduction": reduction})
    return [{"index": index, **level} for index, level in enumerate(levels)]


def take_levels(indices: int | Sequence[int] | None, count: int) -> list[int]:
    """Return the wanted of `count` levels, ascending: all for None, the last n for a number n, else the ones listed.

    Raises:
        ArgumentError: If no level is wanted, or one does not exist.
    """
    if indices is None:
        return list(range(count))
    if is_whole(indices, least=1) and indices <= count:
        return list(range(count - indices, count))
    taken = list(indices) if isinstance(indices, Sequence) and not isinstance(indices, str) else []
    if not taken or not all(isinstance(index, int) and -count <= index < count for index in taken):
        raise ArgumentError(
            f"levels {quoted(taken or indices)}: expected some of 0 to {count - 1}, or negative numbers, which count "
            "from the end"
        )
    return sorted({index % count for index in taken})
