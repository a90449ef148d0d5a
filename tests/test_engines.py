"""Engines: the model's outputs whatever runs it, in any batch; artefacts found again; the fastest chosen."""

import dataclasses
import importlib.util
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from effnet_zoo import EfficientNet, catalog, engine, eval_transform, preprocessing_of
from effnet_zoo.cli import batch
from effnet_zoo.devices import devices
from effnet_zoo.engines import cache, core
from effnet_zoo.engines.backends import BACKENDS, Backend
from effnet_zoo.errors import (
    ArgumentError,
    EngineError,
    InputError,
    MissingExtraError,
    UnknownNameError,
)
from effnet_zoo.graphs.interface import DTYPES, Size
from effnet_zoo.graphs.runtimes import Run
from effnet_zoo.graphs.streams import Plan
from effnet_zoo.model import EfficientNetFeatures
from effnet_zoo.preprocess import open_image
from effnet_zoo.selftest import randomise, relative_error, shallow
from tests.parity.photos import PHOTOS

LITE0 = "effnet_zoo_lite0.pypi_in1k"
SIZE = (65, 98)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFNET_ZOO_HOME", str(tmp_path))
    return tmp_path / "engines"


def network(name: str = "effnet_zoo_b0", seed: int = 0, **options: Any) -> EfficientNet:
    model = EfficientNet(shallow(catalog.models()[name].spec), **{"num_classes": 7, **options})
    randomise(model, seed=seed)
    return model.eval()


def images(count: int, size: Size = SIZE, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(count))


def runs_here(backend: str, dtype: str = "float32", device: str = "cpu") -> None:
    """Skip, with the reason, what this machine cannot run."""
    try:
        BACKENDS[backend].check(device, dtype)
    except (ArgumentError, MissingExtraError) as error:
        pytest.skip(str(error))


EVERY = [pytest.param(name, marks=[pytest.mark.slow] * backend.patient) for name, backend in BACKENDS.items()]
IN_EVERY_DTYPE = [
    pytest.param(name, dtype, marks=[pytest.mark.slow] * backend.patient)
    for name, backend in BACKENDS.items()
    for dtype in backend.dtypes
]
RUNTIMES = ["onnxruntime", "openvino"]


# outputs


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize("name", ["effnet_zoo_b0", "effnet_zoo_lite0", "effnet_zoo_v2_s"])
def test_outputs_are_the_models_for_any_batch_and_size(backend: str, name: str) -> None:
    runs_here(backend)
    model = network(name)
    run = engine(model, backend, batch=4)
    for size in ((64, 64), SIZE):
        for count in (3, 1, 2, 4, 7):
            some = images(count, size)
            outputs = run(some)
            with torch.no_grad():
                assert relative_error(outputs, model(some)) < 1e-5
            assert (outputs.dtype, outputs.shape) == (torch.float32, (count, 7))
            outputs += 1  # it is an ordinary tensor
        assert run.error is not None
        assert run.error < 1e-5


@pytest.mark.parametrize("backend", RUNTIMES)
def test_outputs_do_not_change_when_the_next_come(backend: str) -> None:
    runs_here(backend)
    run = engine(network(), backend)
    first = run(images(3))
    kept = first.clone()
    run(images(4)[:3] * 2)
    assert torch.equal(first, kept)


@pytest.mark.parametrize("backend", RUNTIMES)
def test_other_channels_and_pooled_features(backend: str) -> None:
    runs_here(backend)
    model = network(in_chans=1, num_classes=0)
    some = images(3, channels=1)
    with torch.no_grad():
        assert relative_error(engine(model, backend)(some), model(some)) < 1e-5


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize(("backend", "dtype"), IN_EVERY_DTYPE)
def test_real_photos_get_the_same_label_in_every_dtype(backend: str, dtype: str, device: str) -> None:
    runs_here(backend, dtype, device)
    model = EfficientNet.from_pretrained(LITE0).eval()
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    photos = torch.stack([transform(open_image(path)) for path in PHOTOS.values()])
    with torch.no_grad():
        expected = model(photos)
    outputs = engine(model.to(device), backend, dtype)(photos)
    assert outputs.dtype == torch.float32
    assert torch.equal(outputs.argmax(1), expected.argmax(1))
    assert relative_error(outputs, expected) < {"float32": 1e-5, "bfloat16": 0.05, "float16": 0.01}[dtype]


def test_a_model_in_bfloat16_is_compared_as_exactly_as_it_computes() -> None:
    assert engine(network().bfloat16(), "eager")(images(2)).dtype == torch.float32


def test_a_name_is_loaded_with_its_weights() -> None:
    run = engine(LITE0, "eager", size=224)
    with torch.no_grad():
        expected = EfficientNet.from_pretrained(LITE0).eval()(images(1, (224, 224)))
    assert relative_error(run(images(1, (224, 224))), expected) < 1e-5


# refusals


@pytest.mark.parametrize("backend", ["eager", *RUNTIMES])
def test_another_size_is_refused_if_one_was_given(backend: str) -> None:
    runs_here(backend)
    run = engine(network(), backend, size=SIZE)
    assert run(images(1)).shape == (1, 7)
    with pytest.raises(InputError, match="images of 64x65 pixels: this engine is made for 65x98"):
        run(images(1, (64, 65)))


@pytest.mark.parametrize(
    ("some", "message"),
    [
        (images(1, channels=1), r"shape \(1, 1, 65, 98\): expected torch.float32 of \(n, 3, height, width\)"),
        (images(1)[0], "expected torch.float32"),
        (images(1).to(torch.uint8), "images torch.uint8"),
        (images(1, (31, 64)), "images of 31x64 pixels: expected at least 32x32"),
        (images(1)[:0], "a batch of no images"),
    ],
)
def test_what_is_no_image_is_refused(some: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(network(), "eager")(some)


def test_wrong_arguments_are_refused_by_name() -> None:
    model = network()
    with pytest.raises(UnknownNameError, match="unknown engine 'openvin'.*Did you mean 'openvino'"):
        engine(model, "openvin")
    with pytest.raises(ArgumentError, match="dtype='int8': expected float32, bfloat16, float16"):
        engine(model, dtype="int8")
    for size in (31, (64,), (64, 31), (64.0, 64), True):
        with pytest.raises(ArgumentError, match="expected a side, or height and width, of at least 32"):
            engine(model, "eager", size=size)  # type: ignore[arg-type]
    for count in (0, True, 1.5):
        with pytest.raises(ArgumentError, match="expected a whole number of at least 1"):
            engine(model, batch=count)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a classifier .* found EfficientNetFeatures"):
        engine(EfficientNetFeatures(catalog.models()["effnet_zoo_b0"].spec, device="meta"))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="engine onnxruntime has no bfloat16: expected float32"):
        BACKENDS["onnxruntime"].check("cpu", "bfloat16")
    with pytest.raises(ArgumentError, match="engine openvino runs on cpu, and the model is on cuda"):
        BACKENDS["openvino"].check("cuda", "float32")


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_missing_package_names_the_extra(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"needs {backend}, .* pip install 'effnet-zoo\[{backend}\]'"):
        engine(network(), backend)


class Fake(Backend):
    """Runs the model and says how long that takes on a clock of its own; its artefact is a file with a word."""

    name = "fake"
    filename = "model.fake"

    def __init__(self, clock: list[float], *, name: str = "fake", seconds: float = 1.0, factor: float = 1.0) -> None:
        self.name, self.clock, self.seconds, self.factor = name, clock, seconds, factor  # type: ignore[misc]
        self.exported: list[tuple[Size, str]] = []

    def export(self, model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        self.exported.append((size, dtype))
        (folder / self.filename).write_text("whole")

    def load(self, model: EfficientNet, dtype: str, folder: Path, threads: int) -> Run:
        if (folder / self.filename).read_text() != "whole":
            raise RuntimeError("this file was cut")

        def run(some: Tensor) -> Tensor:
            self.clock[0] += self.seconds
            return model(some) * self.factor

        return run


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Fake]]:
    """Put backends of given seconds a call, and what they multiply outputs with, in the place of all others."""
    clock = [0.0]
    monkeypatch.setattr("effnet_zoo.engines.core.time.perf_counter", lambda: clock[0])
    monkeypatch.setattr("effnet_zoo.engines.core.time.sleep", lambda seconds: None)

    def install(**ways: tuple[float, float]) -> dict[str, Fake]:
        made = {name: Fake(clock, name=name, seconds=way[0], factor=way[1]) for name, way in ways.items()}
        monkeypatch.setattr(core, "BACKENDS", made)
        return made

    return install


def test_an_engine_that_computes_something_else_is_refused(fakes: Callable[..., Any], home: Path) -> None:
    backend = fakes(wrong=(1, 1.01))["wrong"]
    run = engine(network(), "wrong")
    for attempt in (1, 2):
        with pytest.raises(EngineError, match=r"wrong, float32: outputs differ from the model's by a relative 1.0e-02"):
            run(images(2))
        assert len(backend.exported) == attempt
        assert list(home.iterdir()) == []  # nothing wrong is found again


def test_a_first_single_image_is_compared_too(fakes: Callable[..., Any]) -> None:
    backend = fakes(fake=(1, 1.0))["fake"]
    run = engine(network(), "fake", size=SIZE)
    run(images(2))
    backend.factor = 2.0
    with pytest.raises(EngineError, match="differ"):
        run(images(1))


def test_outputs_that_are_not_finite_are_refused(fakes: Callable[..., Any]) -> None:
    fakes(fake=(1, float("nan")))
    with pytest.raises(EngineError, match="relative inf"):
        engine(network(), "fake")(images(2))


def test_a_runtimes_own_error_is_one_of_ours(fakes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no kernel for this\nand a long dump")

    monkeypatch.setattr(fakes(fake=(1, 1))["fake"], "export", fail)
    with pytest.raises(EngineError, match=r"^engine fake cannot run this model: no kernel for this: try another"):
        engine(network(), "fake", size=SIZE)


# artefacts


def test_an_artefact_is_made_once_for_a_size_and_found_again(fakes: Callable[..., Any]) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    run = engine(network(), "fake")
    for size in (SIZE, (64, 64), SIZE):
        run(images(2, size))
    engine(network(), "fake", size=64)(images(2, (64, 64)))
    assert backend.exported == [(SIZE, "float32"), ((64, 64), "float32")]


def test_whatever_changes_outputs_makes_another_artefact(fakes: Callable[..., Any]) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    symmetric = EfficientNet(dataclasses.replace(network().arch, padding="symmetric"), num_classes=7)
    symmetric.load_state_dict(network().state_dict())
    moved = network()
    moved.bn1.register_buffer("running_mean", torch.ones_like(moved.bn1.weight))
    pooled = network(global_pool="max")
    for number, model in enumerate([network(), network(seed=1), symmetric, moved, pooled], start=1):
        engine(model, "fake", size=SIZE)
        engine(model, "fake", size=SIZE)
        assert len(backend.exported) == number


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_warm_start_exports_nothing_unless_the_artefact_is_damaged(
    backend: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_here(backend)
    expected = engine(network(), backend)(images(3))

    def fail(*arguments: Any) -> None:
        raise AssertionError("exported again")

    with monkeypatch.context() as warm:
        warm.setattr(type(BACKENDS[backend]), "export", fail)
        assert torch.equal(engine(network(), backend)(images(3)), expected)
    (path,) = home.rglob(BACKENDS[backend].filename)
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(engine(network(), backend)(images(3)), expected)
    assert path.stat().st_size > 1000


def test_an_artefact_that_another_process_made_meanwhile_is_taken(
    fakes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    export = backend.export

    def slow(model: EfficientNet, size: Size, dtype: str, folder: Path) -> None:
        export(model, size, dtype, folder)
        if len(backend.exported) == 1:
            monkeypatch.setattr(backend, "export", export)
            engine(model, "fake", size=size)

    monkeypatch.setattr(backend, "export", slow)
    engine(network(), "fake", size=SIZE)(images(2))
    assert len(backend.exported) == 2
    assert len(list(home.iterdir())) == 1


FREED_IN_TURN = """
import gc, os, signal, sys
from effnet_zoo import engine
from tests.test_engines import images, network
signal.signal(signal.SIGUSR1, lambda *given: None)
a, b = (engine(network(), "openvino") for _ in range(2))
a(images(4)), b(images(4))
del a
del b
gc.collect()
os.kill(os.getpid(), signal.SIGUSR1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this system has no such signal")
def test_a_signal_after_two_engines_are_gone_is_survived() -> None:
    runs_here("openvino")
    command = [sys.executable, "-W", "ignore", "-c", FREED_IN_TURN]
    result = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


# the fastest


def test_auto_takes_the_fastest_and_remembers_it(fakes: Callable[..., Any]) -> None:
    ways = fakes(slow=(3, 1), fast=(1, 1), middle=(2, 1))
    assert engine(network(), size=SIZE, batch=3).backend == "fast"
    clock = ways["fast"].clock[0]
    assert engine(network(seed=1), size=SIZE, batch=3).backend == "fast"  # speed does not depend on weights
    assert ways["fast"].clock[0] == clock
    ways["fast"].seconds = 9
    assert engine(network(), size=SIZE, batch=4).backend == "middle"
    assert engine(network(), size=(64, 64), batch=3).backend == "middle"
    assert engine(network("effnet_zoo_lite0"), size=SIZE, batch=3).backend == "middle"


def test_auto_forgets_what_is_no_longer_there(fakes: Callable[..., Any]) -> None:
    fakes(slow=(3, 1), fast=(1, 1))
    assert engine(network(), size=SIZE).backend == "fast"
    fakes(slow=(3, 1), other=(2, 1))
    assert engine(network(), size=SIZE).backend == "other"


def test_auto_passes_over_who_computes_something_else(fakes: Callable[..., Any]) -> None:
    fakes(wrong=(1, 2), right=(3, 1))
    assert engine(network(), size=SIZE).backend == "right"
    fakes(wrong=(1, 2), wronger=(1, 3))
    with pytest.raises(EngineError, match="wrong, float32.*; engine wronger, float32"):
        engine(network(), size=SIZE)


def test_auto_does_not_wait_for_a_compiler() -> None:
    assert "inductor" not in {backend.name for backend in core._candidates("cpu", "float32")}


@pytest.mark.parametrize("content", ["", "[]", '{"backend": 3}', '{"backend": "gone"}'])
def test_a_damaged_memory_is_measured_anew(content: str, fakes: Callable[..., Any], home: Path) -> None:
    fakes(slow=(3, 1), fast=(1, 1))
    engine(network(), size=SIZE)
    (path,) = home.glob("*.json")
    path.write_text(content)
    assert engine(network(), size=SIZE).backend == "fast"
    assert cache.recalled(path.stem) == "fast"


# streams


@given(count=st.integers(1, 300), threads=st.integers(1, 96))
def test_a_plan_shares_out_every_image_once_and_no_thread_twice(count: int, threads: int) -> None:
    plan = Plan.of(count, threads)
    parts = list(plan.chunks(count))
    assert [number for part in parts for number in range(part.start, part.stop)] == list(range(count))
    assert plan.streams * plan.threads <= threads
    assert len(parts) >= plan.streams


def test_one_image_gets_all_threads_and_many_one_each() -> None:
    assert Plan.of(1, 8) == Plan(streams=1, threads=8, chunk=1)
    assert Plan.of(32, 8) == Plan(streams=8, threads=1, chunk=2)
    assert Plan.of(3, 8) == Plan(streams=2, threads=4, chunk=1)
    assert Plan.of(8, 1) == Plan(streams=1, threads=1, chunk=2)


def test_the_command_names_the_engines_there_are() -> None:
    assert ["auto", *BACKENDS] == list(batch.ENGINES)
    assert list(DTYPES) == list(batch.DTYPES)
