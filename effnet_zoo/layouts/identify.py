"""Tell from its keys and shapes what a state dict is: layout, architecture, classes and channels."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import WeightsError
from effnet_zoo.layouts import LAYOUTS, Layout
from effnet_zoo.layouts.keytable import CLASSIFIER, STEM, State, is_counter
from effnet_zoo.network.model import EfficientNet

Candidate = tuple[Layout, str, ArchSpec]


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The network and the layout of a state dict.

    Attributes:
        name: The layout's name of the architecture.
        arch: The architecture; its padding and epsilon are the layout's convention.
        num_classes: Rows of its classifier; 0 without one.
        global_pool: ``catavgmax`` if its classifier takes twice the features, else ``avg``: no tensor tells ``avg``
            from ``max``.
    """

    layout: Layout
    name: str
    arch: ArchSpec
    num_classes: int
    in_chans: int
    global_pool: str


def identify(state: Mapping[str, Tensor], source: str, *, among: Collection[str] | None = None) -> Identity:
    """Return what a state dict without wrappers and prefixes is. `source` is its place in errors.

    `among` has the names of the architectures that it may be. If only one is left, the loader compares its tensors.
    Otherwise a `WeightsError` says how the state dict differs from the nearest network, or that it fits several.
    """
    layouts = _layouts(state)
    if not layouts:
        raise WeightsError(
            f"{source}: the keys ({', '.join(sorted(state)[:3])}, ...) are of no known layout: "
            f"expected those of {', '.join(LAYOUTS)}"
        )
    candidates = [
        (layout, name, arch)
        for layout in layouts
        for name, arch in layout.archs.items()
        if among is None or name in among
    ]
    if not candidates:
        names = ", ".join(layout.name for layout in layouts)
        raise WeightsError(f"{source} has the keys of {names}, which has no {' or '.join(among or ())}")
    if among is not None and len(candidates) == 1:
        return _identity(state, candidates[0])
    compared = _compared(state, candidates)
    exact = [identity for identity, differences in compared if not differences]
    if len(exact) == 1:
        return exact[0]
    if exact:
        names = " and ".join(f"{identity.name} of {identity.layout.name}" for identity in exact)
        raise WeightsError(f"{source} fits {names}: say which it is")
    nearest, differences = min(compared, key=lambda row: len(row[1]))
    some = "; ".join(differences[:3]) + ("; ..." if len(differences) > 3 else "")
    advice = ""
    if not all(differences for _, differences in _compared(without_head(state), candidates)):
        advice = "; its backbone is whole: convert --backbone-only takes it without the head"
    raise WeightsError(
        f"{source} is no network of {nearest.layout.name}: the nearest, {nearest.name}, differs in "
        f"{len(differences)} tensors ({some}){advice}"
    )


def without_head(state: Mapping[str, Tensor]) -> State:
    """Return the backbone of a state dict in any layout of PyTorch: no classifier, and no tensor beside the network."""
    heads = [layout.table.head(state) for layout in _layouts(state)]
    return {key: tensor for key, tensor in state.items() if not all(key in head for head in heads)}


def _layouts(state: Mapping[str, Tensor]) -> list[Layout]:
    return [layout for layout in LAYOUTS.values() if layout.stem_key in state]


def _compared(state: Mapping[str, Tensor], candidates: list[Candidate]) -> list[tuple[Identity, list[str]]]:
    """Return the candidates whose keys differ least from the given ones, each with its differences in words."""
    given = {key for key in state if not is_counter(key)}
    by_distance: dict[int, list[Candidate]] = defaultdict(list)
    for layout, name, arch in candidates:
        keys = {theirs for ours, (theirs, _) in layout.table.keys(arch).items() if not is_counter(ours)}
        by_distance[len(keys ^ given)].append((layout, name, arch))
    identities = [_identity(state, candidate) for candidate in by_distance[min(by_distance)]]
    return [(identity, _differences(state, identity)) for identity in identities]


def _shapes(state: Mapping[str, Tensor], layout: Layout, arch: ArchSpec) -> dict[str, torch.Size]:
    """Return shapes by our keys, in our order of axes."""
    keys = layout.table.keys(arch)
    return {ours: form.to_ours(state[theirs]).shape for ours, (theirs, form) in keys.items() if theirs in state}


def _identity(state: Mapping[str, Tensor], candidate: Candidate) -> Identity:
    """Return what a state dict is if it is a candidate's, with the sizes that its first and last tensors show."""
    layout, name, arch = candidate
    shapes = _shapes(state, layout, arch)
    stem, classifier = shapes.get(STEM, ()), shapes.get(CLASSIFIER, ())
    doubled = len(classifier) == 2 and classifier[1] == 2 * arch.head_filters
    return Identity(
        layout=layout,
        name=name,
        arch=arch,
        num_classes=classifier[0] if len(classifier) == 2 else 0,
        in_chans=stem[1] if len(stem) == 4 else 0,
        global_pool="catavgmax" if doubled else "avg",
    )


def _differences(state: Mapping[str, Tensor], identity: Identity) -> list[str]:
    keys = identity.layout.table.keys(identity.arch)
    given = _shapes(state, identity.layout, identity.arch)
    model = EfficientNet(
        identity.arch,
        num_classes=identity.num_classes,
        in_chans=max(1, identity.in_chans),
        global_pool=identity.global_pool,
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
    return differences
