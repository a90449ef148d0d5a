"""The form in which each library of EfficientNets is described: one `Layout`, in one file of this folder."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import ArgumentError, SpecError, WeightsError
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.preprocessing import Preprocessing

B0_TO_B7 = tuple(f"effnet_zoo_b{number}" for number in range(8))

LOGITS_TOLERANCE = 1e-6
"""Largest relative error between two float64 implementations: rounding gives below 1e-10, a wrong constant far more."""

FLOAT32_TOLERANCE = 1e-3
"""Largest relative error where the other side computes in float32."""

SIZE = (97, 130)
"""Height and width of the compared image: one odd, one even, because padding differs with the parity of every map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDescription:
    """A network that another library is asked to build: a variant with other numerics (`arch`) or other ends.

    `num_classes` is 0 without a classifier. `output_stride` is 8 or 16 for a dilated network, else None.
    """

    variant: Model
    arch: ArchSpec
    num_classes: int
    in_chans: int
    global_pool: str = "avg"
    output_stride: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """A library's own implementation of one network, from a Python distribution.

    It is a PyTorch `module` with random weights; or `logits_of_file`, which takes a weight file and images as
    `run_in_float64` does. The logits for an image of `size` (height, width) must agree within `tolerance`.
    """

    distribution: str
    module: nn.Module | None = None
    logits_of_file: Callable[[Path, Tensor], Tensor] | None = None
    size: tuple[int, int] = SIZE
    tolerance: float = LOGITS_TOLERANCE

    def __str__(self) -> str:
        return f"{self.distribution} {metadata.version(self.distribution)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigContent:
    """The facts about a network in a library's config files; `images` is None if preprocessing is not among them."""

    arch: ArchSpec
    global_pool: str
    labels: tuple[str, ...] | None
    images: Preprocessing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFiles:
    """The JSON files that a library keeps beside its weights.

    Attributes:
        names: Their names. The first must be there, and shows which library wrote it.
        is_ours: Whether the content of the first file is this library's.
        read: Return what the files say, from their paths by name and the network as its tensors show it.
        write: Return the content of each file by name, for a network, its class names and its preprocessing.
    """

    names: tuple[str, ...]
    is_ours: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Path], NetworkDescription], ConfigContent]
    write: Callable[[NetworkDescription, tuple[str, ...] | None, Preprocessing], Mapping[str, Mapping[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The facts about a library's weight files.

    Attributes:
        archs: The architectures that the library has, by our variants' names; one that is no variant of ours has a
            name of its own.
        convention: The numerics and the preprocessing that the library fixes, in words. No tensor shows them: whoever
            reads a file assumes them.
        loads_with: How its users load the file, with DIR for the folder.
        preprocessing: Return how the library prepares images for an architecture; None if its checkpoints differ.
        reference: Return the library's implementation of a network, or None if the library is not installed or has no
            such network.
        in_config: Fields of `ArchSpec` that the config files hold: they may differ from the convention.
        dilates: Whether its networks can have an output stride below 32.
    """

    table: KeyTable
    archs: Mapping[str, ArchSpec]
    convention: str
    loads_with: str
    aliases: tuple[str, ...] = ()
    preprocessing: Callable[[str], Preprocessing | None] = lambda _: None
    reference: Callable[[NetworkDescription], Reference | None] = lambda _: None
    config_files: ConfigFiles | None = None
    in_config: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ("avg",)
    dilates: bool = False
    filename: str = "model.safetensors"

    @property
    def name(self) -> str:
        return self.table.name

    @property
    def stem_key(self) -> str:
        """The key of the first convolution's weight, which every file of the layout has."""
        return f"{self.table.network[0]}{self.table.separator}{self.table.forms['conv']['weight'].name}"

    def missing_feature(self, global_pool: str, output_stride: int | None) -> str | None:
        """Return in words the pooling or stride that the library cannot build; None if it can build both."""
        if output_stride and not self.dilates:
            return f"output_stride {output_stride}"
        return None if global_pool in self.poolings else f"{global_pool} pooling"


def archs_named(*names: str, **numerics: Any) -> dict[str, ArchSpec]:
    """Return some of our variants for `Layout.archs`, with other numerics where they are given."""
    return {name: dataclasses.replace(catalogue.models()[name].spec, **numerics) for name in names}


def uncropped(name: str, crop_mode: str, interpolation: str) -> Preprocessing:
    """Return the preprocessing of a variant without a crop, with torchvision's mean and std of ImageNet."""
    return Preprocessing(
        size=(catalogue.models()[name].spec.image_size,) * 2,
        crop_pct=1.0,
        crop_mode=crop_mode,
        interpolation=interpolation,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


def run_in_float64(model: nn.Module, images: Tensor) -> Tensor:
    """Return a model's logits (n, classes) for normalised float64 images (n, channels, height, width).

    The model stays in eval mode and float64.
    """
    with torch.inference_mode():
        output: Any = model.eval().double()(images)
    return getattr(output, "logits", output)


@contextmanager
def values_from(place: str) -> Iterator[None]:
    """Turn the refusal of a value into a `WeightsError` that names the file it comes from."""
    try:
        yield
    except (ArgumentError, SpecError) as error:
        raise WeightsError(f"{place}: {error}") from None
