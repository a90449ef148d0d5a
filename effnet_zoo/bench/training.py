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
from effnet_zoo.bench.contestants import OURS, Task, arch_of, network, weights
from effnet_zoo.bench.machine import peak_memory
from effnet_zoo.bench.timing import Call, interleaved, ratios
from effnet_zoo.errors import UnknownNameError, first_line
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import relative_error
from effnet_zoo.runtime.deployed import TORCH_DTYPES
from effnet_zoo.zoo import catalogue

TOLERANCE = 1e-6
"""Largest relative error, in float64, of the gradient that reaches the images."""

COMPARED_SIZE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Trainer:
    """Whose network, and how it is trained.

    Attributes:
        library: As `contestants.network` has it.
        checkpointed: Whether its blocks are run again in the backward pass.
        channels_last: Whether its user moves weights and images to that memory format.
    """

    library: str
    checkpointed: bool = False
    channels_last: bool = False


TRAINERS = {
    "effnet_zoo": Trainer(library=OURS),
    "effnet_zoo checkpointed": Trainer(library=OURS, checkpointed=True),
    "timm": Trainer(library="timm"),
    "timm channels_last": Trainer(library="timm", channels_last=True),
    "timm checkpointed": Trainer(library="timm", checkpointed=True),
    "torchvision": Trainer(library="torchvision"),
    "efficientnet_pytorch": Trainer(library="efficientnet_pytorch"),
    "geffnet": Trainer(library="geffnet"),
}


def measure(
    name: str,
    *,
    size: int,
    batch: int,
    rounds: int,
    dtype: str = "float32",
    device: str = "cpu",
    everyone: Mapping[str, Trainer] = TRAINERS,
) -> dict[str, Any]:
    """Everyone's time for a step of SGD, forward, backward and update, and the bytes saved for backward.

    Dropout and stochastic depth are off, so that all do the same work. In another dtype than float32 the forward pass
    runs under autocast.

    Returns:
        As `forward.measure`, each result with ``saved_bytes``.
    """
    model = catalogue.find_variant(name)
    task = Task(model=model, state=weights(model.name), size=size, batch=batch, dtype=dtype, device=device)
    calls: dict[str, Call] = {}
    saved: dict[str, int] = {}
    peaks: dict[str, int] = {}
    absent: dict[str, str] = {}
    refused: dict[str, str] = {}
    expected: dict[tuple[ArchSpec, int], Tensor] = {}
    for who, trainer in everyone.items():
        try:
            small = compared(trainer, task)
            key = (arch_of(trainer.library, model), small.size)
            if key not in expected:
                expected[key] = reference(key[0], small)
            error = relative_error(_image_gradient(_built(trainer, task), small), expected[key])
            if error > TOLERANCE:
                refused[who] = f"gradient off by a relative {error:.1e}, more than {TOLERANCE:.0e}: not timed"
                continue
            memory_format = torch.channels_last if trainer.channels_last else torch.preserve_format
            module = _built(trainer, task).to(device, memory_format=memory_format)
            images = task.images().to(memory_format=memory_format)
            saved[who] = saved_bytes(module, functools.partial(_loss, module, images, dtype))
            step = _step(module, images, dtype)
            _, peak = peak_memory(step, device)
            if peak is not None:
                peaks[who] = peak
            calls[who] = step
        except (ImportError, UnknownNameError) as missing:
            absent[who] = first_line(missing)
        except Exception as failure:  # whatever one contestant raises must not stop the rest
            refused[who] = first_line(failure)
    timings, failures = interleaved(calls, rounds=rounds, device=device)
    return {
        "case": {"variant": model.name, "size": size, "batch": batch, "dtype": dtype, "device": device},
        "rounds": rounds,
        "results": {
            who: {
                **dataclasses.asdict(timing),
                "images_per_second": batch / timing.seconds,
                "saved_bytes": saved[who],
                **({"peak_bytes": peaks[who]} if who in peaks else {}),
            }
            for who, timing in timings.items()
        },
        "ratios": ratios(timings, [who for who, trainer in everyone.items() if trainer.library == OURS]),
        "absent": absent,
        "refused": {**refused, **failures},
        "notes": {},
    }


def _built(trainer: Trainer, task: Task) -> Any:
    module: Any = network(trainer.library, task).train()
    if trainer.checkpointed:
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


def compared(trainer: Trainer, task: Task) -> Task:
    """The small task whose gradient is compared, on the CPU."""
    size = task.size if trainer.library == "efficientnet_pytorch" else COMPARED_SIZE  # its padding is fixed for a size
    return dataclasses.replace(task, size=size, batch=2, device="cpu")


def reference(arch: ArchSpec, task: Task) -> Tensor:
    """The gradient that reaches the task's images, by our network run plainly in float64."""
    ours = EfficientNet(dataclasses.replace(arch, drop_rate=0.0, drop_path_rate=0.0))
    ours.load_state_dict(task.state)
    return _image_gradient(ours.train(), task)


def _image_gradient(module: nn.Module, task: Task) -> Tensor:
    images = task.images().double().requires_grad_()
    _loss(module.double(), images, "float32").backward()
    assert images.grad is not None
    return images.grad


def saved_bytes(module: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that a forward pass keeps for the backward pass: each storage once, those of parameters left out.

    Args:
        module: Whose parameters and buffers, which are there anyway, do not count.
        forward: The pass.
    """
    there = {tensor.untyped_storage().data_ptr() for tensor in [*module.parameters(), *module.buffers()]}
    storages: dict[int, torch.UntypedStorage] = {}  # they are kept, so that no address is used twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()
    del result
    return sum(storage.nbytes() for address, storage in storages.items() if address not in there)
