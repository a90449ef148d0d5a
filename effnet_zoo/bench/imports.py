"""What `import effnet_zoo` adds to `import timm`, each in a process of its own."""

import dataclasses
import os
import subprocess
import sys
import tempfile
from typing import Any

from effnet_zoo.bench.timing import summary

STATEMENTS = {"timm": "import timm", "timm and effnet_zoo": "import timm, effnet_zoo"}

CHILD = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def measure(*, rounds: int) -> dict[str, Any]:
    """Seconds to import, in turn, after one process each that fills the operating system's cache.

    All bytecode is kept in a folder of the measurement's own: an editable install may have none where it is.
    """
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(rounds + 1):
            for name, statement in STATEMENTS.items():
                command = [sys.executable, "-W", "ignore", "-c", CHILD.format(statement)]
                out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                samples[name].append(float(out.stdout))
    timings = {name: summary(taken[1:]) for name, taken in samples.items()}
    return {
        "case": {},
        "rounds": rounds,
        "results": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
        "ratios": {"timm": {name: timings["timm"].seconds / timing.seconds for name, timing in timings.items()}},
    }
