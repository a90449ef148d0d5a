"""The form in which each library of EfficientNets is described: one `Layout`, in one file of this folder."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.errors import ArgumentError, SpecError, WeightsError
from effnet_zoo.layouts.keytable import KeyTable, State
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.preprocessing import Preprocessing

B0_TO_B7 = tuple(f"effnet_zoo_b{number}" for number in range(8))

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of pixels scaled to 0..1, RGB: the numbers of torchvision, which nearly every checkpoint was trained with."""

TOLERANCE = 1e-6
"""Largest relative error between two float64 implementations: rounding gives below 1e-10, a wrong constant far more."""

FLOAT32_TOLERANCE = 1e-3
"""Largest relative error where the other side computes in float32."""

SIZE = (97, 130)
"""Height and width of the compared image: one odd, one even, because padding differs with the parity of every map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkDescription:
    """A network that another library is asked to build.

    Attributes:
        variant: The variant of this package with the same tensors.
        arch: The network, with its numerics.
        num_classes: Rows of the classifier; 0 for none.
        in_chans: Channels of the image.
        global_pool: The pooling in front of the classifier.
        output_stride: 8 or 16 for a dilated network, else None.
    """

    variant: Model
    arch: ArchSpec
    num_classes: int
    in_chans: int
    global_pool: str = "avg"
    output_stride: int | None = None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A library's own implementation of one network.

    Attributes:
        distribution: The Python distribution that it comes from.
        size: Height and width in pixels of the image to compare with.
        tolerance: Largest relative error of the logits.
    """

    distribution: str
    size: tuple[int, int] = SIZE
    tolerance: float = TOLERANCE

    def __str__(self) -> str:
        return f"{self.distribution} {metadata.version(self.distribution)}"


@dataclass(frozen=True, kw_only=True)
class ModuleReference(Reference):
    """An implementation in PyTorch.

    Attributes:
        module: The network, with random weights.
    """

    module: nn.Module

    def logits(self, state: State, images: Tensor) -> Tensor:
        """Return the logits (n, classes) for float64 images (n, channels, height, width).

        Args:
            state: All weights, under the library's keys.
            images: Normalised images.
        """
        self.module.load_state_dict(state, strict=True)
        return run_in_float64(self.module, images)


@dataclass(frozen=True, kw_only=True)
class FileReference(Reference):
    """An implementation that takes its weights from a file.

    Attributes:
        logits: Return the logits (n, classes) for the path of a weight file, and images (n, channels, height, width).
    """

    logits: Callable[[Path, Tensor], Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigContent:
    """What a library's config files say of a network.

    Attributes:
        arch: The network, with the numerics of the files.
        global_pool: The pooling in front of the classifier.
        labels: Class names in the order of the logits; None if there are none.
        images: How images are prepared; None if the files leave that open.
    """

    arch: ArchSpec
    global_pool: str
    labels: tuple[str, ...] | None
    images: Preprocessing | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigFiles:
    """The JSON files that a library keeps beside its weights.

    Attributes:
        names: Their names. The first must be there, and tells whose it is.
        is_ours: Whether the content of the first file is this library's.
        read: Return what the files say, from their paths by name and the network as its tensors show it. Raise
            `WeightsError` if that is not an EfficientNet.
        write: Return the content of each file by name, for a network, its class names and its preprocessing. Raise
            `WeightsError` if the library cannot prepare images in that way.
    """

    names: tuple[str, ...]
    is_ours: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Mapping[str, Path], NetworkDescription], ConfigContent]
    write: Callable[[NetworkDescription, tuple[str, ...] | None, Preprocessing], Mapping[str, Mapping[str, Any]]]


def _no_preprocessing(_: str) -> Preprocessing | None:
    return None


def _no_reference(_: NetworkDescription) -> Reference | None:
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is known of a library's weight files. No tensor shows the conventions: whoever reads a file assumes them.

    Attributes:
        table: The keys.
        archs: Return the architectures that the library has, by our variants' names; one that is no variant of ours
            has a name of its own.
        convention: The numerics and the preprocessing that the library fixes, in words.
        loads_with: How its users load the file, with DIR for the folder.
        aliases: Other names by which users ask for the layout.
        preprocessing: Return how the library prepares images for an architecture; None if its checkpoints differ.
        reference: Return the library's implementation of a network, or None if the library is not installed or has no
            such network.
        config_files: The files beside its weights, if it has any.
        in_config: Fields of `ArchSpec` that the config files hold: they may differ from the convention.
        poolings: The poolings that its networks can have.
        dilates: Whether its networks can have an output stride below 32.
        filename: The name of its weight file.
    """

    table: KeyTable
    archs: Callable[[], Mapping[str, ArchSpec]]
    convention: str
    loads_with: str
    aliases: tuple[str, ...] = ()
    preprocessing: Callable[[str], Preprocessing | None] = _no_preprocessing
    reference: Callable[[NetworkDescription], Reference | None] = _no_reference
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
        return f"{self.table.network['conv_stem']}{self.table.separator}{self.table.forms['conv']['weight'].name}"

    def missing_feature(self, global_pool: str, output_stride: int | None) -> str | None:
        """Return what of a network's ends the library cannot build, in words; None if it can build all."""
        if output_stride and not self.dilates:
            return f"output_stride {output_stride}"
        return None if global_pool in self.poolings else f"{global_pool} pooling"


@cache
def our_archs() -> Mapping[str, ArchSpec]:
    """Return the architecture of every variant by its name."""
    return {name: model.spec for name, model in catalogue.models().items()}


def archs_named(*names: str) -> Callable[[], Mapping[str, ArchSpec]]:
    """Return a function for `Layout.archs`: some of our variants, with our numerics."""
    return lambda: {name: our_archs()[name] for name in names}


def run_in_float64(model: nn.Module, images: Tensor) -> Tensor:
    """Return a model's logits (n, classes) in eval mode and float64. The model stays in float64."""
    with torch.inference_mode():
        output: Any = model.eval().double()(images)
    logits: Tensor = getattr(output, "logits", output)
    return logits


@contextmanager
def values_from(place: str) -> Iterator[None]:
    """Turn the refusal of a value into a `WeightsError` that names the file it comes from."""
    try:
        yield
    except (ArgumentError, SpecError) as error:
        raise WeightsError(f"{place}: {error}") from None
