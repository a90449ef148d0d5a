"""A layout as one literal table of module names, usable in both directions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from effnet_zoo.errors import WeightsError
from effnet_zoo.spec import ArchSpec, BlockKind

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTable:
    """Another library's module names beside ours. What follows the module (``weight``, ``running_mean``) is the same.

    Attributes:
        name: The library.
        network: Our module names outside the blocks, and theirs.
        block: Their prefix of a block.
        blocks: For each kind of block our module names inside it, and theirs.

    Their names may hold ``{index}`` (of the block in the network, from 0), ``{block}`` (in its stage, from 0),
    ``{stage}`` (from 1) and ``{after}`` (the number of stages plus 1).
    """

    name: str
    network: Mapping[str, str]
    block: str
    blocks: Mapping[BlockKind, Mapping[str, str]]

    def modules(self, arch: ArchSpec) -> dict[str, str]:
        """Their module names of a network, each with ours.

        Raises:
            WeightsError: If the layout has no name for a kind of block in the network.
        """
        return {theirs: ours for ours, theirs in self._pairs(arch)}

    def _pairs(self, arch: ArchSpec) -> Iterator[tuple[str, str]]:
        after = len(arch.stages) + 1
        for ours, theirs in self.network.items():
            yield ours, theirs.format(after=after)
        index = 0
        for stage, blocks in enumerate(arch.blocks(), start=1):
            for number, block in enumerate(blocks):
                if block.kind not in self.blocks:
                    raise WeightsError(
                        f"{self.name} has no {block.kind} block: expected one of {', '.join(self.blocks)}"
                    )
                prefix = self.block.format(index=index, stage=stage, block=number)
                for ours, theirs in self.blocks[block.kind].items():
                    if block.se_filters or not ours.startswith("se."):
                        yield f"blocks.{stage - 1}.{number}.{ours}", f"{prefix}.{theirs}"
                index += 1

    def to_ours(self, state: Mapping[str, Value], arch: ArchSpec) -> dict[str, Value]:
        """Their state dict under our keys.

        Raises:
            WeightsError: If a key is not of this layout.
        """
        return _rename(state, self.modules(arch), self.name)

    def to_theirs(self, state: Mapping[str, Value], arch: ArchSpec) -> dict[str, Value]:
        """Our state dict under their keys.

        Raises:
            WeightsError: If a key is not of our layout.
        """
        return _rename(state, {ours: theirs for theirs, ours in self.modules(arch).items()}, "effnet_zoo")


def _rename(state: Mapping[str, Value], modules: Mapping[str, str], layout: str) -> dict[str, Value]:
    renamed: dict[str, Value] = {}
    for key, value in state.items():
        module, _, leaf = key.rpartition(".")
        if module not in modules:
            raise WeightsError(f"key {key!r} is not one of the {layout} layout for this network")
        renamed[f"{modules[module]}.{leaf}"] = value
    return renamed
