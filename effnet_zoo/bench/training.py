"""A training step's time, and the bytes it keeps for the backward pass."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.bench import referee
from effnet_zoo.bench.machine import peak_memory
from effnet_zoo.bench.networks import Task, arch_of, library_network, plain_network
from effnet_zoo.bench.results import Data, library_of
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.runtime.deployed import TORCH_DTYPES

BATCH = 8
GRADIENT_TOLERANCE = 1e-6  # largest relative error, in float64, of the gradient that reaches the images
COMPARED_SIZE = 64  # side of the images of that gradient in pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The way a network is trained."""

    checkpointed: bool = False  # whether its blocks are run again in the backward pass
    channels_last: bool = False  # whether its user moves weights and images to that memory format


TRAININGS = {
    "effnet_zoo": Training(),
    "effnet_zoo checkpointed": Training(checkpointed=True),
    "timm": Training(),
    "timm channels_last": Training(channels_last=True),
    "timm checkpointed": Training(checkpointed=True),
    "torchvision": Training(),
    "efficientnet_pytorch": Training(),
    "geffnet": Training(),
}
"""Contestants by name, whose first word is the library."""


def training_cases(settings: Settings) -> Cases:
    for variant in settings.variants:
        task = Task.of(settings, variant, batch=BATCH)
        yield task.subject, functools.partial(time_training, task, rounds=settings.rounds)


def time_training(task: Task, *, rounds: int) -> Data:
    """Time a step of SGD, forward, backward and update, of everyone who computes the right gradient.

    Dropout and stochastic depth are off: all do the same work. In another dtype than float32 the forward pass runs
    under autocast.
    """
    compared = dataclasses.replace(task, size=COMPARED_SIZE, batch=2, device="cpu")

    @functools.cache
    def expected(arch: ArchSpec) -> Tensor:
        return _image_gradient(plain_network(arch, task.state).train(), compared)

    def network(name: str, task: Task) -> Any:
        module = library_network(library_of(name), task).train()
        if TRAININGS[name].checkpointed:
            module.set_grad_checkpointing()
        return module

    def prepare(name: str) -> referee.Prepared:
        gradient = _image_gradient(network(name, compared), compared)
        memory_format = torch.channels_last if TRAININGS[name].channels_last else torch.preserve_format
        module = network(name, task).to(task.device, memory_format=memory_format)
        images = task.images().to(memory_format=memory_format)
        saved = saved_bytes(module, functools.partial(_loss, module, images, task.dtype))
        optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            _loss(module, images, task.dtype).backward()
            optimizer.step()

        with peak_memory(task.device) as peak:
            step()
        return referee.Prepared(call=step, output=gradient, figures={"saved_bytes": saved, **peak})

    data = referee.hold_contest(
        task.case,
        {name: functools.partial(prepare, name) for name in TRAININGS},
        functools.partial(referee.check_error, "gradient", GRADIENT_TOLERANCE),
        reference=lambda name: expected(arch_of(library_of(name), task.model)),
        rounds=rounds,
        sample=lambda call: referee.clocked(call, task.device),
    )
    return referee.with_rates(data, task.batch)


def _loss(module: nn.Module, images: Tensor, dtype: str) -> Tensor:
    with torch.autocast(images.device.type, TORCH_DTYPES[dtype], enabled=dtype != "float32"):
        return F.cross_entropy(module(images), torch.arange(len(images), device=images.device))


def _image_gradient(module: nn.Module, task: Task) -> Tensor:
    images = task.images().double().requires_grad_()
    _loss(module.double(), images, "float32").backward()
    assert images.grad is not None
    return images.grad


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Count the bytes that a forward pass keeps for the backward pass, each storage once.

    The module's parameters and buffers do not count: they exist anyway.
    """
    existing = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    storages: dict[int, torch.UntypedStorage] = {}  # they are kept, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storage.nbytes() for address, storage in storages.items() if address not in existing)
