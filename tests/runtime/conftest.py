"""Fixtures for the tests of runtimes."""

from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from PIL import Image

from effnet_zoo import EfficientNet
from effnet_zoo.images.photos import write_jpegs
from effnet_zoo.runtime import engine as engine_module
from effnet_zoo.runtime.int8 import quantization
from effnet_zoo.runtime.targets.onnx import ONNX_RUNTIMES
from tests.runtime.drawn import LITE0
from tests.runtime.engines import Fake
from tests.runtime.int8 import SIZE


@pytest.fixture(scope="session")
def lite0() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that engines are kept in."""
    monkeypatch.setenv("EFFNET_ZOO_HOME", str(tmp_path))
    return tmp_path / "engines"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Fake]]:
    """Put backends of given seconds a call, and what they multiply outputs with, in the place of all others."""
    clock = [0.0]
    monkeypatch.setattr("effnet_zoo.runtime.engine.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("effnet_zoo.runtime.engine.time.sleep", lambda seconds: None)

    def install(**ways: tuple[float, float]) -> dict[str, Fake]:
        made = {name: Fake(clock, name=name, seconds=way[0], factor=way[1]) for name, way in ways.items()}
        monkeypatch.setattr(engine_module, "ENGINES", made)
        return made

    return install


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Photos cut to calibrate with, 100, and 200 others to compare on."""
    root = tmp_path_factory.mktemp("quantize")
    places = root / "calib", root / "eval"
    for place in places:
        place.mkdir()
    for number, path in enumerate(write_jpegs(root, width=500, height=375, count=300)):
        path.rename(places[number % 3 > 0] / path.name)
    return places


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One turn each of what is timed, and one runtime: for what is not about times."""
    monkeypatch.setattr(quantization, "ROUNDS", 1)
    monkeypatch.delitem(ONNX_RUNTIMES, "openvino")


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty small images, for what is not about what they show."""
    folder = tmp_path_factory.mktemp("few")
    draw = numpy.random.default_rng(0)
    for number in range(30):
        Image.fromarray(draw.integers(0, 256, (SIZE, SIZE, 3), dtype=numpy.uint8)).save(folder / f"{number}.png")
    return folder
