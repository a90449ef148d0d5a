"""Families x ledger: every model with its names, spec and checkpoints."""

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
        """The checkpoint that the name without a tag stands for."""
        return next(checkpoint for checkpoint in self.checkpoints.values() if checkpoint.default)


@functools.cache
def models() -> dict[str, Model]:
    """Return every model by its timm name, in the order of the family tables. Each must have a checkpoint."""
    entries = ledger.load()
    found: dict[str, Model] = {}
    for family in FAMILIES:
        for variant in family.variants:
            name = family.timm_prefix + variant.name
            found[name] = Model(
                name=name,
                hub_name=family.hub_prefix + variant.name,
                family=family,
                spec=variant_spec(family, variant),
                checkpoints=entries.get(name, {}),
            )
    for name in entries:
        if name not in found:
            raise LedgerError(f"the ledger declares {name}, which no family does.{did_you_mean(name, found)}")
    if bare := [name for name, model in found.items() if not model.checkpoints]:
        raise LedgerError(f"no checkpoint in the ledger for {', '.join(bare)}")
    return found


def checkpoints(pattern: str = "*") -> Iterator[tuple[Model, Checkpoint]]:
    """Yield every checkpoint whose ``variant.tag``, variant, tag or torch.hub name matches or contains a pattern."""
    for model in models().values():
        for checkpoint in model.checkpoints.values():
            names = (checkpoint.name, checkpoint.variant, checkpoint.tag, model.hub_name)
            if any(fnmatch.fnmatch(name, pattern) or pattern in name for name in names):
                yield model, checkpoint


def check_name(name: str) -> None:
    """Raise ArgumentError unless a name is a text."""
    if not isinstance(name, str):
        raise ArgumentError(f"name={quoted(name)}: expected a model's name, such as 'effnet_zoo_b0'")


def find_variant(name: str) -> Model:
    """Return a model by its timm or torch.hub name, or as efficientnet_pytorch writes it (``efficientnet-b0``)."""
    check_name(name)
    plain = name.lower().replace("-", "_")
    by_name = {each: model for model in models().values() for each in (model.name, model.hub_name)}
    if plain not in by_name:
        raise UnknownNameError(
            f"unknown model {quoted(name)}: expected one of the names that `effnet-zoo list` shows."
            f"{did_you_mean(plain, by_name)}"
        )
    return by_name[plain]


def find(name: str) -> tuple[Model, Checkpoint]:
    """Return a model and its checkpoint by ``name.tag``, or its default checkpoint by the name alone.

    Raises:
        UnknownNameError: If there is no model of this name or no such tag; it suggests similar ones.
        ArgumentError: If the name is not a text.
    """
    check_name(name)
    bare, _, tag = name.partition(".")
    model = find_variant(bare)
    return model, find_tag(model, tag) if tag else model.default


def find_tag(model: Model, tag: str) -> Checkpoint:
    """Return a model's checkpoint by its tag."""
    if tag not in model.checkpoints:
        raise UnknownNameError(
            f"unknown tag {quoted(tag)} of {model.name}: expected one of {', '.join(model.checkpoints)}."
            f"{did_you_mean(tag, model.checkpoints)}"
        )
    return model.checkpoints[tag]
