"""Families x ledger: every model with its names, spec and checkpoints. What can be known without torch."""

import fnmatch
import functools
from collections.abc import Iterator
from dataclasses import dataclass

from effnet_zoo.arch.families import FAMILIES, Family
from effnet_zoo.arch.spec import ArchSpec, variant_spec
from effnet_zoo.errors import ArgumentError, LedgerError, UnknownNameError, did_you_mean, quoted
from effnet_zoo.zoo import ledger
from effnet_zoo.zoo.ledger import Checkpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A variant: `name` for timm (``effnet_zoo_b0``), `hub_name` for torch.hub (``efficientnet_b0``)."""

    name: str
    hub_name: str
    family: Family
    spec: ArchSpec
    checkpoints: dict[str, Checkpoint]

    @property
    def upstream(self) -> str:
        """Timm's own model with the same tensors and numerics."""
        return f"tf_{self.hub_name}"

    @property
    def default(self) -> Checkpoint:
        """The checkpoint that the bare name stands for."""
        return next(checkpoint for checkpoint in self.checkpoints.values() if checkpoint.default)


@functools.cache
def models() -> dict[str, Model]:
    """Every model by its timm name, in the order of the family tables.

    Raises:
        LedgerError: If the ledger names a variant that no family declares, or leaves one out.
    """
    book = ledger.load()
    found = {
        family.timm_prefix + variant.name: Model(
            name=family.timm_prefix + variant.name,
            hub_name=family.hub_prefix + variant.name,
            family=family,
            spec=variant_spec(family, variant),
            checkpoints=book.get(family.timm_prefix + variant.name, {}),
        )
        for family in FAMILIES
        for variant in family.variants
    }
    for name in book:
        if name not in found:
            raise LedgerError(f"the ledger declares {name}, which no family does.{did_you_mean(name, found)}")
    if bare := [name for name, model in found.items() if not model.checkpoints]:
        raise LedgerError(f"no checkpoint in the ledger for {', '.join(bare)}")
    return found


def checkpoints(pattern: str = "*") -> Iterator[tuple[Model, Checkpoint]]:
    """Every checkpoint whose ``variant.tag``, variant, tag or torch.hub name fits a shell pattern or contains it."""
    for model in models().values():
        for checkpoint in model.checkpoints.values():
            names = (checkpoint.name, checkpoint.variant, checkpoint.tag, model.hub_name)
            if any(fnmatch.fnmatch(name, pattern) or pattern in name for name in names):
                yield model, checkpoint


def check_name(name: str) -> None:
    """Checks that a name is a text.

    Raises:
        ArgumentError: If it is not.
    """
    if not isinstance(name, str):
        raise ArgumentError(f"name={quoted(name)}: expected a model's name, such as 'effnet_zoo_b0'")


def find_variant(name: str) -> Model:
    """A model by its timm or torch.hub name, or as efficientnet_pytorch writes it (``efficientnet-b0``).

    Raises:
        UnknownNameError: Suggesting near names.
        ArgumentError: If the name is not a text.
    """
    check_name(name)
    plain = name.lower().replace("-", "_")
    for model in models().values():
        if plain in (model.name, model.hub_name):
            return model
    known = [known for model in models().values() for known in (model.name, model.hub_name)]
    raise UnknownNameError(
        f"unknown model {quoted(name)}: expected one of the names that `effnet-zoo list` shows."
        f"{did_you_mean(plain, known)}"
    )


def find(name: str) -> tuple[Model, Checkpoint]:
    """A model and one of its checkpoints by ``name.tag``, or the default one by the bare name.

    Raises:
        UnknownNameError: Suggesting near names or tags.
        ArgumentError: If the name is not a text.
    """
    check_name(name)
    bare, _, tag = name.partition(".")
    model = find_variant(bare)
    return model, find_tag(model, tag) if tag else model.default


def find_tag(model: Model, tag: str) -> Checkpoint:
    """A model's checkpoint by its tag.

    Raises:
        UnknownNameError: Naming the tags there are.
    """
    if tag not in model.checkpoints:
        raise UnknownNameError(
            f"unknown tag {quoted(tag)} of {model.name}: expected one of {', '.join(model.checkpoints)}."
            f"{did_you_mean(tag, model.checkpoints)}"
        )
    return model.checkpoints[tag]
