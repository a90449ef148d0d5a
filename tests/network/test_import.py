"""The network needs no library but PyTorch, and imports as little of that as it can."""

import subprocess
import sys
from pathlib import Path

import effnet_zoo

# The package's own __init__ registers with timm: an empty package in its place shows what a room imports by itself.
ALONE = """
import sys, types
package = types.ModuleType("effnet_zoo")
package.__path__ = [{folder!r}]
sys.modules["effnet_zoo"] = package
import torch
before = set(sys.modules)
import {module}
print(*sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}))
print("torch._dynamo" in sys.modules)
"""


def imported(module: str) -> tuple[set[str], bool]:
    """The libraries that a module imports beside torch, in a process of its own, and whether torch._dynamo is there."""
    code = ALONE.format(folder=str(Path(effnet_zoo.__file__).parent), module=module)
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    names, dynamo = out.splitlines()
    # torch 2.6 imports more of itself, and sympy with it, when a layer is first used.
    return set(names.split()) - set(sys.stdlib_module_names) - {"torch", "sympy", "mpmath"}, dynamo == "True"


def test_the_network_imports_nothing_but_torch() -> None:
    assert imported("effnet_zoo.network.model, effnet_zoo.network.folding") == ({"effnet_zoo"}, False)


def test_selftest_and_numerics_add_only_what_reads_the_ledger() -> None:
    assert imported("effnet_zoo.selftest") == ({"effnet_zoo", "msgspec"}, False)
