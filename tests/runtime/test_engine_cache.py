"""What engines keep on disk: made once, never changed, never run unless it is as it was made; the fastest engine."""

import dataclasses
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from effnet_zoo import EfficientNet, engine
from effnet_zoo.errors import EngineError, FileError
from effnet_zoo.runtime import engine as engine_module
from effnet_zoo.runtime import engine_cache
from effnet_zoo.runtime.targets.table import ENGINES
from effnet_zoo.runtime.targets.target import Target
from tests.runtime.engines import RUNTIMES, SIZE, images, network, runs_here

pytestmark = pytest.mark.usefixtures("home")


def test_auto_passes_over_a_package_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Target, device: str, dtype: str) -> None:
        raise EngineError("openvino does not start")

    monkeypatch.setattr(type(ENGINES["openvino"]), "check_engine", fail)
    assert "openvino" not in {*engine_module._candidates("cpu", "float32")}


def test_an_artefact_is_made_once_for_a_size_and_found_again(fakes: Callable[..., Any]) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    run = engine(network(), "fake")
    for size in (SIZE, (64, 64), SIZE):
        run(images(2, size))
    engine(network(), "fake", size=64)(images(2, (64, 64)))
    assert backend.built == [(SIZE, "float32"), ((64, 64), "float32")]


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
        assert len(backend.built) == number


@pytest.mark.parametrize("backend", RUNTIMES)
def test_a_warm_start_exports_nothing_unless_the_artefact_is_damaged(
    backend: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs_here(backend)
    expected = engine(network(), backend)(images(3))

    def fail(*arguments: Any) -> None:
        raise AssertionError("exported again")

    with monkeypatch.context() as warm:
        warm.setattr(type(ENGINES[backend]), "build_engine", fail)
        assert torch.equal(engine(network(), backend)(images(3)), expected)
    (path,) = home.rglob(f"model{ENGINES[backend].suffix}")
    path.write_bytes(path.read_bytes()[:1000])
    assert torch.equal(engine(network(), backend)(images(3)), expected)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "record.json").unlink(),
        lambda folder: (folder / "record.json").write_text("[" * 100_000),
        lambda folder: (folder / "model.fake").write_text("planted"),
        lambda folder: (folder / "model.fake").unlink(),
        lambda folder: (folder / "more").write_text("planted"),
        lambda folder: (folder / "more").mkdir(),
        lambda folder: (folder / "model.fake").rename(folder / "m") and (folder / "model.fake").symlink_to("m"),
    ],
)
def test_an_artefact_that_is_not_as_recorded_is_never_loaded(
    damage: Callable[[Path], Any], fakes: Callable[..., Any], home: Path
) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    engine(network(), "fake", size=SIZE)
    (folder,) = home.iterdir()
    damage(folder)
    engine(network(), "fake", size=SIZE)
    assert backend.loaded == ["whole", "whole"]
    assert len(backend.built) == 2
    assert sorted(path.name for path in home.rglob("*")) == [folder.name, "model.fake", "record.json"]


def test_a_compiled_program_that_somebody_planted_does_not_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compiled(*given: Any, **more: Any) -> None:
        given[4].write_bytes(b"ours")

    ran: list[bytes] = []
    monkeypatch.setattr("effnet_zoo.runtime.targets.pytorch.run_in_child", compiled)
    monkeypatch.setattr("torch._inductor.aoti_load_package", lambda path: ran.append(Path(path).read_bytes()))
    engine(network(), "inductor", size=SIZE)
    (path,) = home.rglob("model.pt2")
    path.write_bytes(b"theirs")
    engine(network(), "inductor", size=SIZE)
    assert ran == [b"ours", b"ours"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has other permissions")
def test_a_cache_that_others_can_write_is_refused_with_the_fix(fakes: Callable[..., Any], home: Path) -> None:
    fakes(fake=(1, 1))
    before = os.umask(0)
    try:
        engine(network(), "fake", size=SIZE)
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
    finally:
        os.umask(before)
    home.chmod(0o770)
    with pytest.raises(FileError, match=r"others can write to it .*`chmod 700 .*EFFNET_ZOO_HOME"):
        engine(network(), "fake", size=SIZE)


@pytest.mark.parametrize("home_text", ["~nobody-of-this-name", "{file}/below"])
def test_only_engines_that_keep_something_need_the_cache(
    home_text: str, fakes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EFFNET_ZOO_HOME", home_text.format(file=tmp_path / "file"))
    assert engine(network(), "eager")(images(1)).shape == (1, 7)
    fakes(fake=(1, 1), other=(2, 1))
    for backend in ("fake", "auto"):
        with pytest.raises(FileError, match=r"the cache of engines: .*EFFNET_ZOO_HOME.*engine\(backend='eager'\)"):
            engine(network(), backend, size=SIZE)
    monkeypatch.setattr(engine_module, "ENGINES", {"eager": ENGINES["eager"]})
    assert engine(network()).backend == "eager"


@pytest.mark.parametrize("backend", RUNTIMES)
def test_an_artefact_never_changes(backend: str, home: Path) -> None:
    runs_here(backend)

    def files() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in home.rglob("*") if path.is_file()}

    run = engine(network(), backend, size=SIZE)
    published = files()
    for count in (1, 4, 7):
        run(images(count))
    assert files() == published


def test_of_several_that_make_an_artefact_at_once_one_does(
    fakes: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    backend = fakes(fake=(1, 1))["fake"]
    build, started = backend.build_engine, threading.Barrier(4)

    def make(_: int) -> Any:
        started.wait(60)
        return engine(network(), "fake", size=SIZE)

    monkeypatch.setattr(backend, "build_engine", lambda *given: (threading.Event().wait(0.2), build(*given)))
    with ThreadPoolExecutor(4) as pool:
        assert len(list(pool.map(make, range(4)))) == 4
    assert len(backend.built) == 1
    assert len(list(home.iterdir())) == 1


AT_ONCE = """
import torch
from effnet_zoo import engine
from tests.runtime.engines import images, network
run = engine(network(), "openvino")
for count in (1, 2, 4, 8):
    run(images(count))
"""


@pytest.mark.slow
def test_processes_that_start_at_once_share_an_engine(home: Path) -> None:
    runs_here("openvino")
    root = Path(__file__).parents[2]
    for _ in range(2):  # cold, then warm
        started = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", AT_ONCE], cwd=root) for _ in range(4)]
        assert [process.wait(300) for process in started] == [0] * 4
    assert len(list(home.iterdir())) == 1


def test_the_key_of_an_artefact_names_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    here = engine_cache.cache_key({})
    if Path("/proc/cpuinfo").exists():
        assert len(engine_cache.processor()) > 3
    monkeypatch.setattr(engine_cache, "processor", lambda: ["another"])
    assert engine_cache.cache_key({}) != here


def test_weights_lie_in_memory_once_for_any_number_of_threads() -> None:
    runs_here("onnxruntime")
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not list what is mapped")
    run = engine(network(), "onnxruntime", size=SIZE)
    run(images(1)), run(images(8))
    assert "model.bin" in maps.read_text()


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
    assert "inductor" not in {*engine_module._candidates("cpu", "float32")}


@pytest.mark.parametrize("content", ["", "[]", '{"slow": 0}', '{"gone": 1}'])
def test_a_damaged_memory_is_measured_anew(content: str, fakes: Callable[..., Any], home: Path) -> None:
    fakes(slow=(3, 1), fast=(1, 1))
    engine(network(), size=SIZE)
    (path,) = home.rglob("seconds.json")
    path.write_text(content)
    assert engine(network(), size=SIZE).backend == "fast"
    assert json.loads(path.read_text()) == {"slow": 3, "fast": 1}


def test_the_cache_may_be_deleted_while_an_engine_lives(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("EFFNET_ZOO_HOME", str(tmp_path))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = engine(EfficientNet.from_name("effnet_zoo_lite0", num_classes=3), "onnxruntime", size=64)
        images = torch.randn(5, 3, 64, 64)
        expected = run(images)
        shutil.rmtree(tmp_path / "engines")
        # One image has all threads: another session, of the same file.
        assert (run(images[:1]) - expected[:1]).abs().max() < 1e-4
    finally:
        torch.set_num_threads(before)
