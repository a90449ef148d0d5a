"""The networks that are compared, all with the same weights and images: this package's, timm's and other libraries'."""

import dataclasses
import functools
import importlib
import warnings
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import Tensor

from effnet_zoo import registry  # noqa: F401  # it registers this package's names with timm
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.bench.results import BASELINE, OURS
from effnet_zoo.bench.settings import Settings
from effnet_zoo.errors import UnknownNameError
from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.layouts.efficientnet_pytorch import OF_FORK
from effnet_zoo.layouts.keytable import State
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import damp, randomise, settle
from effnet_zoo.zoo import catalogue
from effnet_zoo.zoo.catalogue import Model


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The task that every contestant is given: a variant, and a batch of square images of `size` pixels a side."""

    model: Model
    size: int
    batch: int
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def of(cls, settings: Settings, variant: str, *, batch: int, size: int | None = None) -> "Task":
        """Return the task for a variant, at the size that the settings give it, or at another."""
        return cls(
            model=catalogue.find_variant(variant),
            size=size or settings.size_of(variant),
            batch=batch,
            dtype=settings.dtype,
            device=settings.device,
        )

    @property
    def subject(self) -> str:
        """Return the task in words."""
        return f"{self.model.name}, {self.size} px, batch {self.batch}, {self.dtype}, {self.device}"

    @property
    def case(self) -> dict[str, Any]:
        """Return the task as a measurement's ``case``."""
        names = ("size", "batch", "dtype", "device")
        return {"variant": self.model.name, **{name: getattr(self, name) for name in names}}

    @property
    def state(self) -> State:
        """Return the weights under this package's keys, float32 on the CPU."""
        return drawn_weights(self.model.spec)

    def images(self) -> Tensor:
        """Return the input, (batch, 3, size, size), float32, on the device; contestants share it and leave it alone."""
        return _drawn_images(self.batch, self.size, self.device)


@functools.lru_cache(maxsize=2)
def _drawn_images(batch: int, size: int, device: str) -> Tensor:
    with torch.inference_mode(False):  # a training step may not keep what inference mode makes
        return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)


@functools.lru_cache(maxsize=1)
def drawn_weights(arch: ArchSpec) -> State:
    """Return drawn weights for a network, with batch norm statistics of drawn images.

    With drawn statistics, exact implementations of V2-S and B5 would differ by 1e-2 in float32.
    """
    model = damp(randomise(plain_network(arch), seed=0))
    return settle(model, torch.randn(8, 3, 128, 128, generator=torch.Generator().manual_seed(2))).state_dict()


def plain_network(arch: ArchSpec, state: State | None = None) -> EfficientNet:
    """Return this package's network without dropout and stochastic depth, with weights if there are any."""
    model = EfficientNet(dataclasses.replace(arch, drop_rate=0.0, drop_path_rate=0.0))
    if state is not None:
        model.load_state_dict(state)
    return model


def arch_of(library: str, model: Model) -> ArchSpec:
    """Return a variant with a library's numerics; an UnknownNameError says that the library does not have it.

    torchvision pads symmetrically, and has another epsilon.
    """
    if library in (OURS, BASELINE, "geffnet"):
        return model.spec
    archs = LAYOUTS[library].archs
    if model.name not in archs:
        raise UnknownNameError(f"{library} has no {model.hub_name}")
    return archs[model.name]


def library_network(library: str, task: Task) -> Any:
    """Return a library's network on the CPU as its user builds it, with the task's weights, without dropout.

    An ImportError says that the library is not installed, an UnknownNameError that it does not have the variant.
    """
    name, arch, state = task.model.hub_name, arch_of(library, task.model), task.state
    if library == OURS:
        model = timm.create_model(task.model.name, drop_rate=0.0, drop_path_rate=0.0)
    elif library == BASELINE:
        model = timm.create_model(task.model.upstream)
    elif library == "geffnet":
        with warnings.catch_warnings():  # it scripts its activations when it is imported
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
            geffnet = importlib.import_module("geffnet")
        if not hasattr(geffnet, task.model.upstream):
            raise UnknownNameError(f"geffnet has no {name}")
        model = geffnet.create_model(task.model.upstream)
    elif library == "torchvision":
        from torchvision.models import get_model

        theirs = name.replace("efficientnetv2", "efficientnet_v2")
        model = get_model(theirs, dropout=0.0, stochastic_depth_prob=0.0)
    else:
        module = importlib.import_module("efficientnet_lite_pytorch" if task.model.name in OF_FORK else library)
        rates = {"dropout_rate": 0.0, "drop_connect_rate": 0.0}
        model = module.EfficientNet.from_name(name.replace("_", "-"), image_size=task.size, **rates)
    if library in ("torchvision", "efficientnet_pytorch"):
        state = LAYOUTS[library].table.to_theirs(state, arch)
    model.load_state_dict(state, strict=True)
    return model
