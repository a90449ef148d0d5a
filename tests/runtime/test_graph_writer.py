"""The writer of graphs: it touches nothing of the process, and refuses by name what it has no translation for."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from effnet_zoo import EfficientNet
from effnet_zoo.errors import EngineError
from effnet_zoo.network.layers import MBConv
from effnet_zoo.numerics import shallow
from effnet_zoo.runtime.graph import onnx_model
from effnet_zoo.runtime.metadata import Interface
from effnet_zoo.zoo import catalogue


def network(name: str = "effnet_zoo_b0") -> EfficientNet:
    return EfficientNet(shallow(catalogue.models()[name].spec), num_classes=7).eval()


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
        (lambda model: model.blocks[2].__setitem__(0, nn.Tanh()), "blocks.2.0 is Tanh"),
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
