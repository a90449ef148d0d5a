"""Engines: the outputs of the model whatever runs it, in any batch, thread and process; and their refusals."""

import copy
import importlib.util
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.utils import prune

from effnet_zoo import EfficientNet, engine, eval_transform, optimize, preprocessing_of
from effnet_zoo.cli import files
from effnet_zoo.errors import ArgumentError, EngineError, InputError, MissingExtraError, UnknownNameError
from effnet_zoo.images.decoding import open_image
from effnet_zoo.network.devices import devices
from effnet_zoo.network.model import EfficientNetFeatures
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime import engine as engine_module
from effnet_zoo.runtime.metadata import COMPUTE_DTYPES
from effnet_zoo.runtime.targets.table import ENGINES
from effnet_zoo.runtime.targets.target import package_version
from effnet_zoo.zoo import catalogue
from tests.parity.photos import PHOTOS
from tests.runtime.engines import (
    EVERY,
    IN_EVERY_DTYPE,
    LITE0,
    RUNTIMES,
    SIZE,
    images,
    network,
    runs_here,
)

pytestmark = pytest.mark.usefixtures("home")


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


@pytest.mark.parametrize("backend", ["eager", *RUNTIMES])
def test_another_size_is_refused_if_one_was_given(backend: str) -> None:
    runs_here(backend)
    run = engine(network(), backend, size=SIZE)
    assert run(images(1)).shape == (1, 7)
    with pytest.raises(InputError, match="images of 64x65 pixels: expected 65x98, as this engine was made"):
        run(images(1, (64, 65)))


@pytest.mark.parametrize(
    ("some", "message"),
    [
        (images(1, channels=1), r"shape \(1, 1, 65, 98\): expected torch.float32 of \(n, 3, height, width\)"),
        (images(1)[0], "expected torch.float32"),
        (images(1).to(torch.uint8), "images torch.uint8"),
        (images(1, (31, 64)), "images of 31x64 pixels: expected at least 32x32"),
        (images(1)[:0], r"shape \(0, 3, 65, 98\): expected .*, at least one"),
        (torch.zeros(()), r"shape \(\): expected torch.float32"),
        (images(1).double(), "images torch.float64"),
        (images(1).numpy(), "expected images as a torch.Tensor, found ndarray"),
        ([[[[1.0]]]], "found list"),
    ],
)
def test_what_is_no_image_is_refused(some: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        engine(network(), "eager")(some)


def test_wrong_arguments_are_refused_by_name() -> None:
    model = network()
    with pytest.raises(UnknownNameError, match="unknown engine 'openvin'.*Did you mean 'openvino'"):
        engine(model, "openvin")
    with pytest.raises(UnknownNameError, match="unknown engine \\['eager'\\]: expected auto"):
        engine(model, ["eager"])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="dtype='int8': expected float32, bfloat16, float16"):
        engine(model, dtype="int8")
    with pytest.raises(ArgumentError, match=r"dtype=\[\]: expected float32"):
        engine(model, dtype=[])  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="the model is on the meta device: expected one with weights"):
        engine(EfficientNet(catalogue.models()["effnet_zoo_b0"].spec, device="meta"))
    for size in (31, 224.0, "224", (64,), (64, 31), (64.0, 64), True, [None, None]):
        with pytest.raises(ArgumentError, match="expected a side, or height and width, of 32 to 8192"):
            engine(model, "eager", size=size)  # type: ignore[arg-type]
    for count in (0, True, 1.5):
        with pytest.raises(ArgumentError, match="expected a whole number of at least 1"):
            engine(model, batch=count)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a classifier .* found EfficientNetFeatures"):
        engine(EfficientNetFeatures(catalogue.models()["effnet_zoo_b0"].spec, device="meta"))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="engine onnxruntime has no bfloat16: expected float32"):
        ENGINES["onnxruntime"].check_engine("cpu", "bfloat16")
    with pytest.raises(ArgumentError, match="engine openvino runs on cpu, and the model is on cuda"):
        ENGINES["openvino"].check_engine("cuda", "float32")


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_missing_package_names_the_extra(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=rf"needs {backend}, .* pip install 'effnet-zoo\[{backend}\]'"):
        engine(network(), backend)


def test_a_module_of_another_distribution_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    runs_here("onnxruntime")

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)  # it is called onnxruntime-gpu

    monkeypatch.setattr(metadata, "version", version)
    assert package_version("onnxruntime") == importlib.import_module("onnxruntime").__version__
    assert engine(network(), "onnxruntime")(images(2)).shape == (2, 7)
    assert engine(network(), size=SIZE).backend in ENGINES


def test_an_engine_that_computes_something_else_is_refused(fakes: Callable[..., Any], home: Path) -> None:
    backend = fakes(wrong=(1, 1.01))["wrong"]
    run = engine(network(), "wrong")
    for attempt in (1, 2):
        with pytest.raises(EngineError, match=r"wrong, float32: outputs differ from the model's by a relative 1.0e-02"):
            run(images(2))
        assert len(backend.built) == attempt
        assert list(home.iterdir()) == []  # nothing wrong is found again


def test_a_first_single_image_is_compared_too(fakes: Callable[..., Any]) -> None:
    backend = fakes(fake=(1, 1.0))["fake"]
    run = engine(network(), "fake", size=SIZE)
    run(images(2))
    backend.factor = 2.0
    with pytest.raises(EngineError, match="differ"):
        run(images(1))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_good_engine_survives_whatever_image(wrong: float, fakes: Callable[..., Any], home: Path) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    run = engine(network(), "fake", size=SIZE)
    assert not run(images(2) * wrong).isfinite().all()
    assert run(images(2)).isfinite().all()
    assert len(backend.built) == len(list(home.iterdir())) == 1


def test_a_classifier_of_zeros_is_compared_absolutely(fakes: Callable[..., Any]) -> None:
    fakes(fake=(1, 1))
    model = network()
    for parameter in model.classifier.parameters():
        torch.nn.init.zeros_(parameter)
    assert engine(model, "fake")(images(2)).abs().max() == 0
    assert relative_error(torch.full((1,), 0.5), torch.zeros(1)) == 0.5


def test_weights_that_are_not_finite_are_not_called_the_backends_fault(fakes: Callable[..., Any]) -> None:
    fakes(fake=(1, 1))
    model = network()
    model.conv_head.weight.data[0] = float("nan")
    with pytest.raises(EngineError, match=r"the model's own outputs are not finite .* expected weights without NaN"):
        engine(model, "fake")(images(2))


def test_outputs_that_are_not_finite_are_refused(fakes: Callable[..., Any]) -> None:
    fakes(fake=(1, float("nan")))
    with pytest.raises(EngineError, match="relative inf"):
        engine(network(), "fake")(images(2))


def test_a_runtimes_own_error_is_one_of_ours(fakes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise RuntimeError("no kernel for this\nand a long dump")

    monkeypatch.setattr(fakes(fake=(1, 1))["fake"], "build_engine", fail)
    with pytest.raises(EngineError, match=r"^engine fake cannot run this model: no kernel for this: try another"):
        engine(network(), "fake", size=SIZE)


def test_the_callers_model_stays_as_it_is(fakes: Callable[..., Any]) -> None:
    fakes(fake=(1, 1), other=(2, 1))
    model = network()
    model.train()
    model.blocks[0].eval()
    model.freeze(1)
    model.set_grad_checkpointing()

    def state() -> list[Any]:
        return [
            *((name, module.training) for name, module in model.named_modules()),
            *((name, value.requires_grad, value.clone()) for name, value in model.named_parameters()),
        ]

    before = state()
    engine(model, size=SIZE)(images(2))
    assert str(state()) == str(before)


@pytest.mark.parametrize("backend", ["eager", *RUNTIMES])
def test_training_the_model_later_does_not_change_the_engine(backend: str) -> None:
    runs_here(backend)
    model, kept = network(), network()
    run = engine(model, backend)
    run(images(2))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
        for size in (SIZE, (64, 64)):
            assert relative_error(run(images(2, size)), kept(images(2, size))) < 1e-5


@pytest.mark.parametrize("backend", ["eager", *RUNTIMES])
def test_an_engine_is_pickled_and_copied(backend: str) -> None:
    runs_here(backend)
    run = engine(network(), backend)
    expected = run(images(3))
    for again in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        assert repr(again) == repr(run)
        assert torch.equal(again(images(3)), expected)


def test_a_forked_process_makes_the_engine_anew_or_says_why_not(
    fakes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    run = engine(network(), "fake", size=SIZE)
    expected = run(images(2))
    monkeypatch.setattr(engine_module, "_first_process", os.getpid())
    monkeypatch.setattr(os, "getpid", lambda: -1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    for attempt in (lambda: run(images(2)), lambda: engine(network(), "fake")):
        with pytest.raises(EngineError, match=r"was forked from .* torch.set_num_threads\(1\) first, .* 'spawn'"):
            attempt()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert torch.equal(run(images(2)), expected)
    assert len(backend.loaded) == 2


FORKED = """
import multiprocessing, sys, torch
from effnet_zoo import engine
from tests.runtime.engines import images, network
torch.set_num_threads(2)
run = engine(network(), sys.argv[1])
expected = run(images(4))
def child(threads):
    torch.set_num_threads(threads)
    try:
        print(threads, torch.allclose(run(images(4)), expected, atol=1e-5))
    except Exception as error:
        print(threads, type(error).__name__)
for threads in (1, 2):
    process = multiprocessing.get_context("fork").Process(target=child, args=(threads,))
    process.start()
    process.join(60)
    if process.is_alive():
        process.kill()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("backend", ["eager", *RUNTIMES])
def test_a_forked_process_never_hangs(backend: str) -> None:
    runs_here(backend)
    command = [sys.executable, "-W", "ignore", "-c", FORKED, backend]
    root = Path(__file__).parents[2]
    result = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=200)
    assert result.stdout.splitlines() == ["1 True", "2 EngineError"]


@pytest.mark.parametrize("backend", ["eager", *RUNTIMES])
def test_threads_share_an_engine(backend: str) -> None:
    runs_here(backend)
    model = network()
    run = engine(model, backend)

    def error(count: int) -> float:
        with torch.no_grad():
            return relative_error(run(images(count)), model(images(count)))

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(error, [1, 2, 3, 4, 5, 6, 7, 8] * 2)) < 1e-5


def test_threads_compute_at_the_same_time(fakes: Callable[..., Any]) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    run = engine(network(), "fake")
    run(images(2))
    together = threading.Barrier(2)
    backend.before = lambda: together.wait(30)
    with ThreadPoolExecutor(2) as pool:
        assert len(list(pool.map(run, [images(2)] * 2))) == 2


FREED_IN_TURN = """
import gc, os, signal, sys
from effnet_zoo import engine
from tests.runtime.engines import images, network
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
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_command_names_the_engines_there_are() -> None:
    assert {"auto", *ENGINES} == set(files.ENGINE_CHOICES)
    assert list(COMPUTE_DTYPES) == list(files.DTYPES)


def test_a_model_that_torch_cannot_copy_is_refused_with_the_mend() -> None:
    model = EfficientNet.from_name("effnet_zoo_lite0", num_classes=3)
    prune.l1_unstructured(model.conv_stem, "weight", amount=0.5)
    model.conv_stem(torch.randn(1, 3, 64, 64))
    for make in (lambda: engine(model, "eager"), lambda: optimize(model)):
        with pytest.raises(ArgumentError, match="cannot be copied: .*prune.remove"):
            make()
    prune.remove(model.conv_stem, "weight")
    assert engine(model, "eager")(torch.randn(1, 3, 64, 64)).shape == (1, 3)
