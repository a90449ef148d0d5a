"""What `import effnet_zoo` adds to `import timm`, each in a process of its own."""

import dataclasses
import tempfile
from typing import Any

from effnet_zoo.bench.processes import first_answer
from effnet_zoo.bench.timing import summary
from effnet_zoo.errors import EngineError

STATEMENTS = {"timm": "import timm", "timm and effnet_zoo": "import timm, effnet_zoo"}

CHILD = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def measure(*, rounds: int) -> dict[str, Any]:
    """Measures seconds to import, in turn, after one process each that fills the operating system's cache.

    All bytecode is kept in a folder of the measurement's own: an editable install may have none where it is. Who
    fails is refused, with the last line of its process.
    """
    samples: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    refused: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        environment = {"PYTHONPYCACHEPREFIX": folder, "PYTHONDONTWRITEBYTECODE": ""}
        for _ in range(rounds + 1):
            for name in [name for name in samples if name not in refused]:
                try:
                    samples[name].append(float(first_answer(CHILD.format(STATEMENTS[name]), (), environment)[1]))
                except EngineError as error:
                    refused[name] = str(error)
    timings = {name: summary(taken[1:]) for name, taken in samples.items() if name not in refused}
    return {
        "case": {},
        "rounds": rounds,
        "results": {name: dataclasses.asdict(timing) for name, timing in timings.items()},
        "ratios": {
            "timm": {name: timings["timm"].seconds / one.seconds for name, one in timings.items() if "timm" in timings}
        },
        "refused": refused,
    }
