"""Networks, images, and targets that only pretend to run a model, for the tests of engines."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_zoo import EfficientNet
from effnet_zoo.errors import ArgumentError, MissingExtraError
from effnet_zoo.numerics import randomise, shallow
from effnet_zoo.runtime.metadata import Interface, Size
from effnet_zoo.runtime.targets.table import ENGINES
from effnet_zoo.runtime.targets.target import Target, TensorFunction
from effnet_zoo.zoo import catalogue

LITE0 = "effnet_zoo_lite0.pypi_in1k"


SIZE = (65, 98)


def network(name: str = "effnet_zoo_b0", seed: int = 0, **options: Any) -> EfficientNet:
    model = EfficientNet(shallow(catalogue.models()[name].spec), **{"num_classes": 7, **options})
    randomise(model, seed=seed)
    return model.eval()


def images(count: int, size: Size = SIZE, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(count))


def runs_here(backend: str, dtype: str = "float32", device: str = "cpu") -> None:
    """Skip, with the reason, what this machine cannot run."""
    try:
        ENGINES[backend].check_engine(device, dtype)
    except (ArgumentError, MissingExtraError) as error:
        pytest.skip(str(error))


EVERY = [pytest.param(name, marks=[pytest.mark.slow] * target.slow_to_build) for name, target in ENGINES.items()]


IN_EVERY_DTYPE = [
    pytest.param(name, dtype, marks=[pytest.mark.slow] * target.slow_to_build)
    for name, target in ENGINES.items()
    for dtype in target.engine_dtypes
]


RUNTIMES = ["onnxruntime", "openvino"]


class Fake(Target):
    """Runs the model and says how long that takes on a clock of its own; its file holds a word."""

    suffix = ".fake"

    def __init__(self, clock: list[float], *, name: str = "fake", seconds: float = 1.0, factor: float = 1.0) -> None:
        self.engine, self.clock, self.seconds, self.factor = name, clock, seconds, factor
        self.built: list[tuple[Size | None, str]] = []
        self.loaded: list[str] = []
        self.before: Callable[[], Any] = lambda: None

    def build_engine(self, model: EfficientNet, interface: Interface, path: Path) -> None:
        self.built.append((interface.size, interface.dtype))
        path.write_text("whole")

    def load_engine(self, model: EfficientNet, path: Path, *, threads: int, dtype: str) -> TensorFunction:
        self.loaded.append(path.read_text())

        def outputs_of(some: Tensor) -> Tensor:
            self.before()
            self.clock[0] += self.seconds
            return model(some) * self.factor

        return outputs_of
