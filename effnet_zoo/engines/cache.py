"""Where engines keep what took time: artefacts by the hash of all they were made of, and which backend was fastest."""

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from effnet_zoo import __version__
from effnet_zoo.atomic_io import written_whole
from effnet_zoo.fetch import HOME


def folder() -> Path:
    """``$EFFNET_ZOO_HOME/engines``, or ``effnet-zoo/engines`` in the user's cache folder."""
    if home := os.environ.get(HOME):
        return Path(home).expanduser() / "engines"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "effnet-zoo" / "engines"


def key(facts: Mapping[str, Any]) -> str:
    """A name for whatever depends on these facts, and on this package, torch and the processor."""
    everything = {
        **facts,
        "effnet_zoo": __version__,
        "torch": torch.__version__,
        "processor": [platform.machine(), platform.processor(), torch.backends.cpu.get_cpu_capability()],
    }
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()[:32]


def recalled(name: str) -> str | None:
    """The backend that was remembered under a name, if any."""
    try:
        answer = json.loads((folder() / f"{name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return answer.get("backend") if isinstance(answer, dict) else None


def remember(name: str, backend: str, seconds: Mapping[str, float]) -> None:
    """Note which backend was fastest, and what each took."""
    with written_whole(folder() / f"{name}.json") as beside:
        beside.write_text(json.dumps({"backend": backend, "seconds": dict(seconds)}, indent=1) + "\n", encoding="utf-8")
