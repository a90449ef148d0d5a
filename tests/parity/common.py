"""What the parity tests share: another library's model with drawn weights, ours carrying them, and the comparison.

Weights are drawn because the point is the arithmetic: with `randomise` an epsilon, a padding or two swapped keys change
every logit, while in a freshly built model batch norm hides all three.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Unpack
from unittest.mock import patch

import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.checkpoints import loading
from effnet_zoo.checkpoints.loading import LoadReport
from effnet_zoo.layouts import LAYOUTS, Layout
from effnet_zoo.network.options import BuildOptions
from effnet_zoo.numerics import randomise, relative_error, settle
from effnet_zoo.zoo import catalogue

Size = tuple[int, int]
Outputs = Callable[[Any, Tensor], Sequence[Tensor]]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 5e-4}
"""Largest ||ours - theirs|| / ||theirs||: room for rounding, and for nothing that a wrong constant changes.

Processors add up in another order with channels last, as ours computes, than without, and drawn weights magnify
rounding from layer to layer: float32 loses up to 2e-4 (B4), float64 stays within its bound.
"""

SIZES: tuple[Size, ...] = ((128, 128), (97, 130), (65, 96), (33, 47))
"""Even in every map, then odd beside even in both directions: SAME padding differs with the parity of every map."""

SETTLING: Size = (128, 128)
SMALL: Size = (65, 96)
TINY: Size = (33, 47)

KEPT = 2
"""Blocks kept of a stage where depth is reduced: the first changes size and filters, the second adds its input."""


def all_names() -> list[str]:
    return list(catalogue.models())


def images(size: Size, dtype: torch.dtype) -> Tensor:
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def drawn(build: Callable[[], nn.Module], *, seed: int = 0) -> Any:
    """Another library's model with drawn weights, in eval mode; even L2 costs nothing before its blocks are dropped."""
    with unallocated():
        model = build()
    randomise(on_cpu(model), seed=seed)
    channels = next(layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d))
    return settle(model, torch.randn(4, channels, *SETTLING, generator=torch.Generator().manual_seed(seed)))


@contextmanager
def unallocated() -> Iterator[None]:
    """Build on the meta device, without what takes longest there: torch draws weights that do not exist in Python."""
    with (
        torch.device("meta"),
        patch.object(Tensor, "normal_", lambda tensor, *_, **__: tensor),
        patch.object(Tensor, "uniform_", lambda tensor, *_, **__: tensor),
    ):
        yield


def on_cpu(model: Any) -> Any:
    """A model from the meta device, all NaN, so that a tensor which is not set later cannot agree with anything."""
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in chain(model.parameters(), model.buffers()):
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)
    return model


def keep_blocks(stages: nn.Sequential, indices: Sequence[int], kept: int = KEPT) -> None:
    """Drop all but the first blocks of the stages at `indices`."""
    for index in indices:
        stage = stages[index]
        assert isinstance(stage, nn.Sequential)
        stages[index] = stage[:kept]


def from_file(name: str, state: dict[str, Tensor], folder: Path, **options: Unpack[BuildOptions]) -> EfficientNet:
    """Ours with another library's weights, the way a user gets it: from a file, by name."""
    path = folder / "theirs.pth"
    torch.save(state, path)
    model = EfficientNet.from_pretrained(name, str(path), **options)
    path.unlink()  # pytest keeps temporary folders, and these are large
    return model.eval()


def from_state(arch: ArchSpec, state: dict[str, Tensor], *, output_stride: int = 32) -> EfficientNet:
    """Ours with another library's weights for an architecture that has no name."""
    with unallocated():
        model = EfficientNet(arch, output_stride=output_stride)
    own = next(own for own in map(partial(_own_keys, arch, state), LAYOUTS.values()) if own)
    loading.load_state(model, own, LoadReport(source="the other library's state_dict"), new_head=False)
    return model.eval()


def _own_keys(arch: ArchSpec, state: dict[str, Tensor], layout: Layout) -> dict[str, Tensor] | None:
    """A state dict under our keys if it is of the layout."""
    stem = layout.table.keys(arch)["conv_stem.weight"][0] if covers(layout, arch) else None
    return layout.table.to_ours(state, arch) if stem in state else None


def covers(layout: Layout, arch: ArchSpec) -> bool:
    """Whether a layout has names for every kind of block of a network."""
    return all(block.kind in layout.table.blocks for stage in arch.blocks() for block in stage)


def assert_agree(
    ours: nn.Module,
    theirs: nn.Module,
    size: Size,
    of_ours: Outputs,
    of_theirs: Outputs,
    dtypes: Sequence[torch.dtype] = tuple(TOLERANCE),
) -> None:
    """Both models' outputs on the same images, in float64 and in float32."""
    for dtype in dtypes:
        ours.to(dtype)
        theirs.to(dtype)
        x = images(size, dtype)
        with torch.inference_mode():
            mine, reference = of_ours(ours, x), of_theirs(theirs, x)
        assert len(mine) == len(reference) > 0
        for index, (out, wanted) in enumerate(zip(mine, reference, strict=True)):
            assert out.shape == wanted.shape
            assert out.dtype == wanted.dtype == dtype
            error = relative_error(out, wanted)
            assert error <= TOLERANCE[dtype], f"output {index} at {size} in {dtype}: relative error {error:.2e}"


def assert_logits_agree(ours: nn.Module, theirs: nn.Module, size: Size) -> None:
    assert_agree(ours, theirs, size, logits, logits)


def logits(model: Any, x: Tensor) -> list[Tensor]:
    return [model(x)]


def assert_same_state(state: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    """The same keys in the same order, and the same tensors."""
    assert list(state) == list(other)
    for key, tensor in state.items():
        assert tensor.dtype == other[key].dtype, key
        assert torch.equal(tensor, other[key]), key
