"""Does this machine compute what the definition says?

A case is one variant on one device, in one dtype and memory format, run in one mode. Its reference is the same network
with the same weights in float64 on the CPU, run plainly.
"""

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from effnet_zoo.errors import first_line
from effnet_zoo.network.devices import find_device
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.numerics import randomise, relative_error, shallow
from effnet_zoo.zoo import catalogue

Mode = Literal["eager", "compiled", "scripted", "checkpointed"]
MODES: tuple[Mode, ...] = get_args(Mode)

ERROR_LIMITS = {torch.float32: 1e-5, torch.bfloat16: 4e-2, torch.float16: 5e-3}
"""Largest relative error of the logits that passes, ||out - reference|| / ||reference||, by dtype.

At least 3.5 times what rounding costs the seven blocks of a case on a CPU: 5e-7, 1e-2 and 1.4e-3. float32 has 24 bits
of mantissa, bfloat16 8 and float16 11.
"""

GRADIENT_FACTOR = 4
"""Factor of the limit for a gradient, which went through twice the layers and through batch statistics."""

MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}

VARIANTS = ("effnet_zoo_b0", "effnet_zoo_v2_s")
"""One variant of MBConv with squeeze-excite throughout, and one that begins with Fused-MBConv."""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to run a model."""

    variant: str
    device: str
    dtype: torch.dtype
    memory_format: str
    mode: Mode

    @property
    def error_limit(self) -> float:
        """Largest relative error that passes."""
        return ERROR_LIMITS[self.dtype] * (GRADIENT_FACTOR if self.mode == "checkpointed" else 1)

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.variant}-{self.device}-{dtype}-{self.memory_format}-{self.mode}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseResult:
    """A case's relative error, or why it could not be run."""

    case: Case
    error: float | None = None
    failure: str | None = None

    @property
    def passed(self) -> bool:
        """Whether the case ran and its error is within the limit."""
        return self.error is not None and self.error <= self.case.error_limit


def cases_on(device: str, *, modes: Iterable[Mode] = MODES) -> list[Case]:
    """Return a case for every combination on a device, which this machine must have."""
    find_device(device)
    return [Case(*each) for each in itertools.product(VARIANTS, [device], ERROR_LIMITS, MEMORY_FORMATS, modes)]


def run_cases(cases: Iterable[Case]) -> Iterator[CaseResult]:
    """Run cases one by one. A case that raises is a failed result, and the next one follows."""
    for case in cases:
        try:
            yield CaseResult(case=case, error=case_error(case))
        except Exception as error:  # whatever a backend raises is what this is here to find
            yield CaseResult(case=case, failure=first_line(error))


@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)  # float32 in 24 bits, not in TF32's 11
def case_error(case: Case) -> float:
    """Run one case, and return its relative error against float64 on the CPU."""
    arch = dataclasses.replace(shallow(catalogue.models()[case.variant].spec), drop_rate=0.0, drop_path_rate=0.0)
    reference = randomise(EfficientNet(arch, num_classes=10).double(), seed=0)
    images = torch.randn(4, 3, 65, 96, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    how: dict[str, Any] = {
        "device": case.device,
        "dtype": case.dtype,
        "memory_format": MEMORY_FORMATS[case.memory_format],
    }
    model = EfficientNet(arch, num_classes=10)
    model.load_state_dict(reference.state_dict())
    model.to(**how)
    if case.mode == "checkpointed":
        model.set_grad_checkpointing()
        return relative_error(_input_gradient(model, images.to(**how)), _input_gradient(reference, images))
    with torch.inference_mode():
        expected = reference.eval()(images)
    runner = _prepare(model.eval(), case.mode)
    with torch.no_grad():
        return relative_error(runner(images.to(**how)), expected)


def _prepare(model: EfficientNet, mode: Mode) -> Callable[[Tensor], Tensor]:
    if mode == "compiled":
        # Every network shares one forward, of which torch compiles only so many versions before it gives up.
        torch.compiler.reset()
        return torch.compile(model, fullgraph=True)
    if mode == "scripted":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*torch.jit.script.* is deprecated")
            scripted: Any = torch.jit.script(model)
            return scripted
    return model


def _input_gradient(model: EfficientNet, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    model.train()(images).square().mean().backward()
    assert images.grad is not None
    return images.grad
