"""Comparing what a runtime computes with what the model computes."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from effnet_zoo.errors import EngineError
from effnet_zoo.numerics import relative_error


def model_outputs(model: Callable[[Tensor], Tensor], batches: Iterable[Tensor], caller: str) -> list[Tensor]:
    """Return a model's outputs of batches, float32 on the processor.

    Raises:
        EngineError: If outputs are not finite. The message begins with `caller`.
    """
    with torch.inference_mode():
        outputs = [model(batch).float().cpu() for batch in batches]
    if not all(one.isfinite().all() for one in outputs):
        raise EngineError(
            f"{caller}: the model's own outputs are not finite on these images: expected weights without NaN or "
            "infinity, and activations that fit the dtype of the model: see verify"
        )
    return outputs


def error_of(outputs: Tensor, expected: Tensor) -> float:
    """Return the relative error of outputs, ||outputs - expected|| / ||expected||; infinite for another shape."""
    return relative_error(outputs, expected) if outputs.shape == expected.shape else float("inf")


def check_error(error: float, tolerance: float, who: str, hint: str) -> None:
    """Check that outputs are as close to the model's as a dtype allows.

    Raises:
        EngineError: If not.
    """
    if not error <= tolerance:
        raise EngineError(
            f"{who}: outputs differ from the model's by a relative {error:.1e}: expected at most "
            f"{tolerance:.0e}; {hint}"
        )


def same_labels(outputs: Tensor, expected: Tensor) -> Tensor:
    """Return for each image whether the most likely class is the same, bool (n,)."""
    return outputs.argmax(1) == expected.argmax(1)
