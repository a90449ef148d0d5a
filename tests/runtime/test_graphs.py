"""Graphs: written without touching anything of the process, refused by name; streams; work in a child process."""

import operator
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.errors import EngineError
from effnet_zoo.network.blocks import MBConv
from effnet_zoo.numerics import shallow
from effnet_zoo.runtime.child import run_in_child
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.runtime.streams import CHUNK, Plan
from effnet_zoo.zoo import catalogue

pytest.importorskip("onnx")
from effnet_zoo.runtime.graph import onnx_model


def network(name: str = "effnet_zoo_b0") -> EfficientNet:
    return EfficientNet(shallow(catalogue.models()[name].spec), num_classes=7).eval()


# the writer


def test_nothing_of_the_process_changes_while_a_graph_is_written() -> None:
    before, other = dict(vars(nn.Module)), nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    changed: set[str] = set()
    failed: list[Exception] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            changed.update(name for name, value in list(vars(nn.Module).items()) if before.get(name) is not value)

    def serve() -> None:
        while not done.is_set():
            try:
                other(torch.zeros(1, 3))
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=watch), threading.Thread(target=serve)]
    for thread in threads:
        thread.start()
    try:
        for name in ("effnet_zoo_b0", "effnet_zoo_v2_s"):
            onnx_model(network(name), Interface(size=(64, 64)))
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert (changed, failed) == (set(), [])


class Doubled(MBConv):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


class Gated(MBConv):
    def add_skip(self, x: Tensor, shortcut: Tensor) -> Tensor:
        return x


class Shifted(nn.SiLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 1


class Scaled(EfficientNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def become(place: str, kind: type[nn.Module]) -> Callable[[EfficientNet], None]:
    return lambda model: setattr(model.get_submodule(place), "__class__", kind)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (become("blocks.1.0", Doubled), "blocks.1.0 is Doubled, which has no translation"),
        (become("blocks.1.0", Gated), "blocks.1.0 is Gated"),
        (become("blocks.1.0.act1", Shifted), "blocks.1.0.act1 is Shifted"),
        (become("blocks.1.0.se.gate", nn.Tanh), "blocks.1.0.se.gate is Tanh"),
        (become("", Scaled), "Scaled.forward has no translation"),
        (lambda model: model.blocks[2].__setitem__(0, nn.Identity()), "blocks.2.0 is Identity"),
        (lambda model: setattr(model, "bn1", nn.GroupNorm(1, 32)), "bn1 is GroupNorm"),
        (lambda model: model.blocks[1][0].register_forward_hook(print), "blocks.1.0 has a hook"),
        (lambda model: setattr(model.act2, "forward", torch.relu), "act2 has a hook, or a forward of its own"),
    ],
)
def test_what_computes_something_else_is_refused_by_name(change: Callable[[EfficientNet], Any], message: str) -> None:
    model = network()
    change(model)
    with pytest.raises(EngineError, match=f"^onnx: {message}"):
        onnx_model(model, Interface(size=(64, 64)))


def test_a_subclass_that_computes_the_same_is_written() -> None:
    model, same = network(), type("Same", (MBConv,), {})
    expected = onnx_model(model, Interface()).SerializeToString()
    become("blocks.1.0", same)(model)
    assert onnx_model(model, Interface()).SerializeToString() == expected


# streams


@pytest.mark.parametrize("threads", range(1, 33))
def test_every_thread_has_work_every_image_comes_once_and_plans_stay_few(threads: int) -> None:
    plans = set()
    for count in range(1, 65):
        plan = Plan.of(count, threads)
        parts = list(plan.chunks(count))
        plans.add(plan)
        assert plan.streams * plan.threads == threads
        assert [number for part in parts for number in range(part.start, part.stop)] == list(range(count))
        assert len(parts) >= plan.streams
        assert Plan.of(min(count, CHUNK * threads), threads) == plan  # what an engine is checked with
    assert len(plans) <= 2 * sum(threads % number == 0 for number in range(1, threads + 1))


def test_one_image_gets_all_threads_and_many_one_each() -> None:
    assert Plan.of(1, 8) == Plan(streams=1, threads=8, chunk=1)
    assert Plan.of(32, 8) == Plan(streams=8, threads=1, chunk=2)
    assert Plan.of(3, 8) == Plan(streams=2, threads=4, chunk=1)
    assert Plan.of(8, 1) == Plan(streams=1, threads=1, chunk=2)
    assert Plan.of(32, 6) == Plan(streams=6, threads=1, chunk=2)
    assert Plan.of(16, 24) == Plan(streams=12, threads=2, chunk=1)


# a child process


def test_a_child_says_why_it_failed() -> None:
    run_in_child(operator.truediv, 1, 2)
    with pytest.raises(EngineError, match=r"^ZeroDivisionError: division by zero$"):
        run_in_child(operator.truediv, 1, 0)
    with pytest.raises(EngineError, match=r"^the process ended with status 3$"):
        run_in_child(os._exit, 3)
    with pytest.raises(EngineError, match=r"^the process was ended by signal 6"):
        run_in_child(os.abort)
    with pytest.raises(EngineError, match=r"^the model cannot be sent to another process: .*pickle"):
        run_in_child(operator.truediv, lambda: None, 2)


def test_a_child_ends_when_its_time_is_over() -> None:
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"^not done after 1 seconds$"):
        run_in_child(time.sleep, 100, seconds=1)
    assert time.monotonic() - start < 20
