"""What a state dict is, told from its keys and shapes: layout, variant, classes and channels."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts.keytable import CLASSIFIER, STEM, State, is_counter
from effnet_zoo.layouts.layout import LAYOUTS, Layout
from effnet_zoo.network.model import EfficientNet


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What a state dict is.

    Attributes:
        layout: Whose keys it has.
        name: Which of the layout's architectures it is.
        arch: That architecture; padding and epsilon are the layout's convention.
        num_classes: Rows of its classifier; 0 if it has none.
        in_chans: Channels of its stem.
        global_pool: ``catavgmax`` if its classifier takes twice the features, else ``avg``, which a file cannot tell
            from ``max``.
    """

    layout: Layout
    name: str
    arch: ArchSpec
    num_classes: int
    in_chans: int
    global_pool: str


def without_head(state: Mapping[str, Tensor]) -> State:
    """Returns the backbone of a state dict in any layout of PyTorch: no classifier, and nothing that stands beside."""
    heads = [layout.table.head(state) for layout in _layouts(state)]
    return {key: tensor for key, tensor in state.items() if not all(key in head for head in heads)}


def identify(state: Mapping[str, Tensor], source: str, *, among: Iterable[str] | None = None) -> Identity:
    """What a state dict is.

    Args:
        state: Tensors without wrappers and prefixes.
        source: Where it comes from, for errors.
        among: Names of architectures that it may be, if it is not to be any.

    Raises:
        WeightsError: If it is none, naming the nearest and how it differs, or if several fit.
    """
    layouts = _layouts(state)
    if not layouts:
        raise WeightsError(
            f"{source}: the keys ({', '.join(sorted(state)[:3])}, ...) are of no known layout: "
            f"expected those of {', '.join(LAYOUTS)}"
        )
    wanted = None if among is None else set(among)
    candidates = [
        (layout, name, arch)
        for layout in layouts
        for name, arch in layout.archs().items()
        if wanted is None or name in wanted
    ]
    if not candidates:
        names = ", ".join(layout.name for layout in layouts)
        raise WeightsError(f"{source} has the keys of {names}, which has no {' or '.join(wanted or ())}")
    if len(candidates) == 1 and among is not None:  # the loader compares every tensor with the one network it can be
        return _identity(candidates[0], _sizes(_shapes(state, *candidates[0]), candidates[0][2]))
    compared = [(candidate, *_compared(state, candidate)) for candidate in _nearest(state, candidates)]
    exact = [(candidate, sizes) for candidate, differences, sizes in compared if not differences]
    if len(exact) > 1:
        names = " and ".join(f"{name} of {layout.name}" for (layout, name, _), _ in exact)
        raise WeightsError(f"{source} fits {names}: say which it is")
    if not exact:
        (layout, name, _), differences, _ = min(compared, key=lambda row: len(row[1]))
        some = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
        backbone = without_head(state)
        whole = any(not _compared(backbone, candidate)[0] for candidate, *_ in compared)
        advice = "; its backbone is whole: convert --backbone-only takes it without the head" if whole else ""
        raise WeightsError(
            f"{source} is none of the networks of {layout.name}: the nearest, {name}, differs in {len(differences)} "
            f"tensors ({some}){advice}"
        )
    return _identity(*exact[0])


def _identity(candidate: "Candidate", sizes: "Sizes") -> Identity:
    layout, name, arch = candidate
    return Identity(
        layout=layout,
        name=name,
        arch=arch,
        num_classes=sizes.num_classes,
        in_chans=sizes.in_chans,
        global_pool=sizes.global_pool,
    )


def _layouts(state: Mapping[str, Tensor]) -> list[Layout]:
    return [layout for layout in LAYOUTS.values() if _stem_of(layout) in state]


def _stem_of(layout: Layout) -> str:
    table = layout.table
    return f"{table.network['conv_stem']}{table.separator}{table.forms['conv']['weight'].name}"


Candidate = tuple[Layout, str, ArchSpec]


def _nearest(state: Mapping[str, Tensor], candidates: list[Candidate]) -> list[Candidate]:
    """Those whose keys differ least from the given ones, by name alone."""

    def distance(candidate: Candidate) -> int:
        layout, _, arch = candidate
        keys = {theirs for ours, (theirs, _) in layout.table.keys(arch).items() if not is_counter(ours)}
        return len(keys - state.keys()) + len({key for key in state if not is_counter(key)} - keys)

    distances = [distance(candidate) for candidate in candidates]
    return [candidate for candidate, away in zip(candidates, distances, strict=True) if away == min(distances)]


def _shapes(state: Mapping[str, Tensor], layout: Layout, _: str, arch: ArchSpec) -> dict[str, torch.Size]:
    """Shapes by our keys."""
    keys = layout.table.keys(arch)
    return {ours: form.to_ours(state[theirs]).shape for ours, (theirs, form) in keys.items() if theirs in state}


def _compared(state: Mapping[str, Tensor], candidate: Candidate) -> tuple[list[str], "Sizes"]:
    """How a state dict differs from an architecture, and the sizes that are its own to say."""
    layout, _, arch = candidate
    keys, given = layout.table.keys(arch), _shapes(state, *candidate)
    sizes = _sizes(given, arch)
    model = EfficientNet(
        arch,
        num_classes=sizes.num_classes,
        in_chans=max(1, sizes.in_chans),
        global_pool=sizes.global_pool,
        device="meta",
    )
    expected = {key: tensor.shape for key, tensor in model.state_dict().items()}
    known = {theirs for theirs, _ in keys.values()}
    differences = [f"{key} is left over" for key in sorted(state.keys() - known)]
    for ours, shape in expected.items():
        theirs = keys[ours][0] if ours in keys else ours
        if ours not in given:
            if not is_counter(ours):
                differences.append(f"{theirs} is missing")
        elif given[ours] != shape:
            differences.append(f"{theirs} is {tuple(given[ours])} in our order of axes, instead of {tuple(shape)}")
    differences += [f"{keys[ours][0]} is without the rest of the classifier" for ours in given.keys() - expected.keys()]
    return differences, sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What a file says of a network's two ends."""

    num_classes: int
    in_chans: int
    global_pool: str


def _sizes(given: Mapping[str, torch.Size], arch: ArchSpec) -> Sizes:
    stem, classifier = given.get(STEM, ()), given.get(CLASSIFIER, ())
    doubled = len(classifier) == 2 and classifier[1] == 2 * arch.head_filters
    return Sizes(
        num_classes=classifier[0] if len(classifier) == 2 else 0,
        in_chans=stem[1] if len(stem) == 4 else 0,
        global_pool="catavgmax" if doubled else "avg",
    )
