"""The devices that torch can compute on here."""

import torch

from effnet_zoo.errors import UnknownNameError


def devices() -> list[str]:
    """Returns the kinds of device present: always cpu, and cuda, mps and xpu where torch finds one."""
    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "xpu": hasattr(torch, "xpu") and torch.xpu.is_available(),
    }
    return [name for name, there in present.items() if there]


def find_device(name: str) -> torch.device:
    """Returns a device by its name, such as ``cpu``, ``cuda`` or ``cuda:1``.

    Raises:
        UnknownNameError: If there is no such device here.
    """
    known = [f"{kind}:{number}" for kind in devices() for number in range(_count(kind))]
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or f"{device.type}:{device.index or 0}" not in known:
        raise UnknownNameError(f"no device {name!r} on this machine: expected {' or '.join(devices() + known)}")
    return device


def _count(kind: str) -> int:
    return 1 if kind in ("cpu", "mps") else torch.get_device_module(kind).device_count()
