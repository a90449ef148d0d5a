"""The devices that torch can compute on here."""

import torch

from effnet_zoo.errors import UnknownNameError, quoted


def devices() -> list[str]:
    """Return the kinds of device present: always cpu, and cuda, mps and xpu where torch finds one."""
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
    }
    return [name for name, there in present.items() if there]


def find_device(name: str) -> torch.device:
    """Return a device by its name, such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UnknownNameError: If this machine has no such device.
    """
    known = devices()
    for kind in ("cuda", "xpu"):
        if kind in known:
            known += [f"{kind}:{number}" for number in range(torch.get_device_module(kind).device_count())]
    if name not in known:
        raise UnknownNameError(f"no device {quoted(name)} on this machine: expected {' or '.join(known)}")
    return torch.device(name)
