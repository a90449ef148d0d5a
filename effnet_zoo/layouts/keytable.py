"""Key tables: the module names of another library beside ours, for tensors in both directions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from effnet_zoo.arch.blocks import BlockKind
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import WeightsError, quoted

State = dict[str, Tensor]
"""Tensors by name."""

STEM = "conv_stem.weight"
CLASSIFIER = "classifier.weight"
COUNTER = "num_batches_tracked"
"""The counter of batch norm. Files older than PyTorch 0.4.1 lack it, and other frameworks do not have it."""

NETWORK = ("conv_stem", "bn1", "conv_head", "bn2", "classifier")
"""Our names of the modules outside of the blocks, in the order in which an image passes them."""

_SE = ("se.conv_reduce", "se.conv_expand")
BLOCK_MODULES: dict[BlockKind, tuple[str, ...]] = {
    "mbconv": ("conv_pw", "bn1", "conv_dw", "bn2", *_SE, "conv_pwl", "bn3"),
    "separable": ("conv_dw", "bn1", *_SE, "conv_pw", "bn2"),
    "fused": ("conv_exp", "bn1", "conv_pwl", "bn2"),
    "conv": ("conv", "bn1"),
}
"""Our names of the modules of a block, in the same order."""

Role = Literal["conv", "depthwise", "squeeze", "norm", "linear"]
"""The kind of a module. ``squeeze`` is a convolution of squeeze-excite, which has a bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The form in which another library stores one tensor.

    Attributes:
        name: The name of the tensor in their module.
        axes: For each of their axes, the number of our axis. None if the axes are the same.
        flat: Whether the tensor has no height and width, as the weight of a linear layer.
    """

    name: str
    axes: tuple[int, ...] | None = None
    flat: bool = False

    def to_theirs(self, tensor: Tensor) -> Tensor:
        if self.flat:
            return tensor.flatten(1)
        return tensor if self.axes is None else tensor.permute(self.axes)

    def to_ours(self, tensor: Tensor) -> Tensor:
        if self.flat:
            return tensor[..., None, None] if tensor.dim() == 2 else tensor
        if self.axes is None or tensor.dim() != len(self.axes):  # the loader reports a wrong shape
            return tensor
        return tensor.permute([self.axes.index(axis) for axis in range(len(self.axes))])


Forms = Mapping[Role, Mapping[str, Form]]
"""For each role of a module, our tensors in it, each with their form. A tensor left out does not exist there."""


def _named(*leaves: str) -> dict[str, Form]:
    return {leaf: Form(name=leaf) for leaf in leaves}


AS_IN_TORCH: Forms = {
    "conv": _named("weight"),
    "depthwise": _named("weight"),
    "squeeze": _named("weight", "bias"),
    "norm": _named("weight", "bias", "running_mean", "running_var", COUNTER),
    "linear": _named("weight", "bias"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyTable:
    """The module names of another library beside ours, and how it stores the tensors of a module.

    Attributes:
        name: The name of the layout.
        network: Their names of the modules outside of the blocks, in the order of `NETWORK`.
        block: The prefix of a block in their keys.
        blocks: For each kind of block that they have, their names of its modules, in the order of `BLOCK_MODULES`.
        separator: The text between the module and the tensor in their keys.

    Their names may hold ``{index}`` (of the block in the network, from 0), ``{next}`` (that plus 1), ``{block}`` (in
    its stage, from 0), ``{letter}`` (the same, from a), ``{stage}`` (from 1), ``{before}`` (that less 1) and
    ``{after}`` (the number of stages plus 1).
    """

    name: str
    network: tuple[str, ...]
    block: str
    blocks: Mapping[BlockKind, tuple[str, ...]]
    forms: Forms = field(default_factory=lambda: AS_IN_TORCH)
    separator: str = "."

    def modules(self, arch: ArchSpec) -> dict[str, str]:
        """Return our module names of a network, each with theirs, in our order."""
        theirs = [name.format(after=len(arch.stages) + 1) for name in self.network]
        pairs = list(zip(NETWORK, theirs, strict=True))
        return dict([*pairs[:2], *self._blocks(arch), *pairs[2:]])

    def _blocks(self, arch: ArchSpec) -> Iterator[tuple[str, str]]:
        index = 0
        for stage, blocks in enumerate(arch.blocks(), start=1):
            for number, block in enumerate(blocks):
                if block.kind not in self.blocks:
                    known = ", ".join(self.blocks)
                    raise WeightsError(f"{self.name} has no {block.kind} block: expected one of {known}")
                prefix = self.block.format(
                    index=index, next=index + 1, stage=stage, before=stage - 1, block=number, letter=chr(97 + number)
                )
                for ours, theirs in zip(BLOCK_MODULES[block.kind], self.blocks[block.kind], strict=True):
                    if block.se_filters or ours not in _SE:
                        yield f"blocks.{stage - 1}.{number}.{ours}", f"{prefix}{theirs}"
                index += 1

    def keys(self, arch: ArchSpec) -> dict[str, tuple[str, Form]]:
        """Return our keys that the layout has too, each with their key and their form."""
        return {
            f"{ours}.{leaf}": (f"{theirs}{self.separator}{form.name}", form)
            for ours, theirs in self.modules(arch).items()
            for leaf, form in self.forms[role_of(ours)].items()
        }

    def to_ours(self, state: Mapping[str, Tensor], arch: ArchSpec) -> State:
        """Return their state dict under our keys, in their order. A missing counter of batch norm becomes 0.

        A key that the layout does not have for this network stays as it is. The loader refuses all of them together.
        """
        theirs = {their_key: (our_key, form) for our_key, (their_key, form) in self.keys(arch).items()}
        renamed: State = {}
        for key, tensor in state.items():
            our_key, form = theirs.get(key, (key, Form(name="")))
            if our_key in renamed:
                raise WeightsError(
                    f"{quoted(our_key)} is there twice, in this package's layout and as {quoted(key)} of {self.name}"
                )
            renamed[our_key] = form.to_ours(tensor)
        for ours in self.modules(arch):
            if role_of(ours) == "norm":
                renamed.setdefault(f"{ours}.{COUNTER}", torch.tensor(0))
        return renamed

    def to_theirs(self, state: Mapping[str, Tensor], arch: ArchSpec) -> State:
        """Return our state dict under their keys, in our order. Counters that they do not have are left out."""
        renamed: State = {}
        ours = self.keys(arch)
        for key, tensor in state.items():
            if key in ours:
                their_key, form = ours[key]
                renamed[their_key] = form.to_theirs(tensor)
            elif not is_counter(key):
                raise WeightsError(f"key {quoted(key)} is not one of the effnet_zoo layout for this network")
        return renamed

    def head(self, state: Mapping[str, Tensor]) -> State:
        """Return the tensors of their state dict that are not the backbone's: the classifier, and all beside it."""
        backbone = tuple({f"{name.partition('.')[0]}." for name in (self.block, *self.network[:-1])})
        return {key: tensor for key, tensor in state.items() if not key.startswith(backbone)}


def is_counter(key: str) -> bool:
    """Return whether a key of either layout is a counter of batch norm."""
    return key.endswith(f".{COUNTER}")


def role_of(module: str) -> Role:
    """Return the role of a module from our name of it."""
    name = module.rpartition(".")[2]
    if name.startswith("bn"):
        return "norm"
    if name == "classifier":
        return "linear"
    if module.endswith(_SE):
        return "squeeze"
    return "depthwise" if name == "conv_dw" else "conv"
