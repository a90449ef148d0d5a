"""What `import effnet_zoo` adds to `import timm`, each in a process of its own."""

import functools
import tempfile
from collections.abc import Mapping
from typing import Any

from effnet_zoo.bench.processes import answer_of, own_bytecode, python
from effnet_zoo.bench.referee import Sample, check_equal, hold_process_contest
from effnet_zoo.bench.results import BASELINE
from effnet_zoo.bench.settings import Cases, Settings

STATEMENTS = {"timm": "import timm", "timm and effnet_zoo": "import timm, effnet_zoo"}

CHILD = "import time; start = time.perf_counter(); {}; print(time.perf_counter() - start)"


def import_cases(settings: Settings) -> Cases:
    """Yield the one case."""
    yield "timm", functools.partial(time_imports, rounds=settings.rounds)


def time_imports(*, rounds: int) -> dict[str, Any]:
    """Time the imports, with bytecode from the first round, which does not count."""
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
        environment = own_bytecode(folder)
        calls = {
            name: functools.partial(_import, CHILD.format(statement), environment)
            for name, statement in STATEMENTS.items()
        }
        compare = functools.partial(check_equal, "another output than the first contestant's")
        outcome = hold_process_contest(calls, compare, rounds=rounds)
    return outcome.as_data({}, outcome.ratios({BASELINE: BASELINE}))


def _import(program: str, environment: Mapping[str, str]) -> tuple[Sample, None]:
    return {"seconds": float(answer_of(python(program), environment).text)}, None
