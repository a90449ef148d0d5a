"""The device matrix: every device, dtype, memory format and way of running against float64 on the CPU."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from effnet_zoo import EfficientNet, selftest
from effnet_zoo.network.devices import devices
from effnet_zoo.selftest import Case

DEVICES = ("cpu", "cuda", "mps", "xpu")


def matrix() -> Iterator[Any]:
    """A parameter for each case of the devices here, and for each other device one that says it is missing."""
    for device in DEVICES:
        if device not in devices():
            reason = f"no {device} device on this machine"
            yield pytest.param(None, marks=pytest.mark.skip(reason=reason), id=f"{device}-missing")
            continue
        for case in selftest.cases_on(device):
            marks = [pytest.mark.slow] if case.mode == "compiled" else []  # the compiler takes half a minute
            yield pytest.param(case, marks=marks, id=str(case))


@pytest.mark.parametrize("case", list(matrix()))
def test_case_is_within_its_limit(case: Case) -> None:
    error = selftest.case_error(case)
    assert error <= case.error_limit, f"{case}: relative error {error:.2e}, limit {case.error_limit:.0e}"


def test_the_matrix_is_every_combination() -> None:
    assert len(selftest.cases_on("cpu")) == 2 * 3 * 2 * 4  # variants, dtypes, memory formats, modes


@pytest.mark.parametrize("wrong", [{"bn_eps": 1e-5}, {"padding": "symmetric"}, {"activation": "relu"}], ids=str)
@pytest.mark.parametrize("variant", selftest.VARIANTS)
def test_a_wrong_constant_is_found(variant: str, wrong: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(variant=variant, device="cpu", dtype=torch.float32, memory_format="contiguous", mode="eager")
    assert case.error_limit == min(selftest.ERROR_LIMITS.values())

    def prepare(model: EfficientNet, mode: str) -> Callable[[Tensor], Tensor]:
        other = EfficientNet(dataclasses.replace(model.arch, **wrong), num_classes=model.num_classes)
        other.load_state_dict(model.state_dict())
        return other.eval()

    assert selftest.case_error(case) <= case.error_limit
    monkeypatch.setattr(selftest, "_prepare", prepare)
    assert selftest.case_error(case) > 10 * case.error_limit
