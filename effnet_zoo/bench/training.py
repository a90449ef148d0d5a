"""A training step's time, and the bytes it keeps for the backward pass."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.bench.machine import with_peak_memory
from effnet_zoo.bench.networks import Task, arch_of, library_network, plain_network
from effnet_zoo.bench.referee import Call, Contestant, Prepared, check_error, clocked, hold_contest
from effnet_zoo.bench.results import library_of
from effnet_zoo.bench.settings import Cases, Settings
from effnet_zoo.runtime.deployed import TORCH_DTYPES

BATCH = 8

GRADIENT_TOLERANCE = 1e-6
"""Largest relative error, in float64, of the gradient that reaches the images."""

COMPARED_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """The way a network is trained.

    Attributes:
        checkpointed: Whether its blocks are run again in the backward pass.
        channels_last: Whether its user moves weights and images to that memory format.
    """

    checkpointed: bool = False
    channels_last: bool = False


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
    """Yield every variant at `BATCH`."""
    for variant in settings.variants:
        task = Task.of(settings, variant, batch=BATCH)
        yield task.subject, functools.partial(time_training, task, rounds=settings.rounds)


def time_training(task: Task, *, rounds: int, trainings: Mapping[str, Training] = TRAININGS) -> dict[str, Any]:
    """Time a step of SGD, forward, backward and update, of everyone who computes the right gradient.

    Dropout and stochastic depth are off, so that all do the same work. In another dtype than float32 the forward pass
    runs under autocast.

    Returns:
        Data whose results have ``saved_bytes``.
    """

    @functools.cache
    def expected(arch: ArchSpec, size: int) -> Tensor:
        return _image_gradient(plain_network(arch, task.state).train(), _compared(task, size))

    def prepare(name: str, training: Training) -> Prepared:
        gradient = _image_gradient(_network(name, training, task), _compared(task, _compared_size(name, task)))
        memory_format = torch.channels_last if training.channels_last else torch.preserve_format
        module = _network(name, training, task).to(task.device, memory_format=memory_format)
        images = task.images().to(memory_format=memory_format)
        saved = saved_bytes(module, functools.partial(_loss, module, images, task.dtype))
        step = _step(module, images, task.dtype)
        _, peak = with_peak_memory(step, task.device)
        return Prepared(call=step, output=gradient, figures={"saved_bytes": saved, **peak})

    def compare(gradient: Tensor, wanted: Tensor) -> dict[str, Any]:
        check_error("gradient", gradient, wanted, GRADIENT_TOLERANCE)
        return {}

    outcome = hold_contest(
        [Contestant(name=name, prepare=functools.partial(prepare, name, how)) for name, how in trainings.items()],
        compare,
        reference=lambda name: expected(arch_of(library_of(name), task.model), _compared_size(name, task)),
        rounds=rounds,
        sample=lambda call: clocked(call, task.device),
    )
    for result in outcome.results.values():
        result["images_per_second"] = task.batch / result["seconds"]
    return outcome.as_data(task.case, outcome.ratios(outcome.rivals()))


def _network(name: str, training: Training, task: Task) -> Any:
    module: Any = library_network(library_of(name), task).train()
    if training.checkpointed:
        module.set_grad_checkpointing()
    return module


def _loss(module: nn.Module, images: Tensor, dtype: str) -> Tensor:
    with torch.autocast(images.device.type, TORCH_DTYPES[dtype], enabled=dtype != "float32"):
        return F.cross_entropy(module(images), torch.arange(len(images), device=images.device))


def _step(module: nn.Module, images: Tensor, dtype: str) -> Call:
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        _loss(module, images, dtype).backward()
        optimizer.step()

    return step


def _compared_size(name: str, task: Task) -> int:
    """Return the side of the images whose gradient is compared; efficientnet_pytorch fixes its padding for a size."""
    return task.size if library_of(name) == "efficientnet_pytorch" else COMPARED_SIZE


def _compared(task: Task, size: int) -> Task:
    return dataclasses.replace(task, size=size, batch=2, device="cpu")


def _image_gradient(module: nn.Module, task: Task) -> Tensor:
    images = task.images().double().requires_grad_()
    _loss(module.double(), images, "float32").backward()
    assert images.grad is not None
    return images.grad


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Count the bytes that a forward pass keeps for the backward pass, each storage once.

    Args:
        module: The network, whose parameters and buffers do not count: they exist anyway.
        forward: The pass.
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
