"""How a process starts: what the command imports, and what `import effnet_zoo` does."""

import subprocess
import sys
from pathlib import Path

import pytest

from effnet_zoo import __version__
from tests.shell import COMMAND

HEAVY = {"torch", "timm", "torchvision", "matplotlib", "huggingface_hub", "numpy", "PIL"}


def answer_of(code: str) -> str:
    """The last line that Python code prints in a fresh interpreter."""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["list"],
        ["info", "b0"],
        ["predict", "--help"],
        ["embed", "--help"],
        ["export", "--help"],
        ["quantize", "--help"],
    ],
)
def test_light_commands_import_no_heavy_library(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = {["effnet-zoo", *arguments]!r}
from _effnet_zoo_command import main
try:
    main()
except SystemExit:
    pass
print(sorted({HEAVY!r} & sys.modules.keys()))
"""
    assert answer_of(code) == "[]"


def test_any_other_program_gets_the_public_names_and_the_models_in_timm() -> None:
    code = """
import sys, effnet_zoo, timm
assert "effnet_zoo_b0" in timm.list_models("effnet_zoo_*")
assert not [name for name in effnet_zoo.__all__ if not hasattr(effnet_zoo, name)]
print("_effnet_zoo_command" in sys.modules)
"""
    assert answer_of(code) == "False"


def test_importing_the_package_leaves_the_process_alone() -> None:
    code = """
import logging, sys, threading, timm, torch, warnings
def settings():
    return (torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype(), list(warnings.filters),
            logging.getLogger().level, list(logging.getLogger().handlers), threading.active_count(),
            torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32)
before, models = settings(), set(timm.list_models())
import effnet_zoo
assert settings() == before, (before, settings())
assert all(name.startswith("effnet_zoo_") for name in set(timm.list_models()) - models)
heavy = {"typer", "rich", "matplotlib", "onnx", "onnxruntime", "openvino", "effnet_zoo.cli"}
heavy |= {"effnet_zoo.predict.pictures"}
print(sorted(heavy & sys.modules.keys()))
"""
    assert answer_of(code) == "[]"


@pytest.mark.parametrize("start", [COMMAND, [sys.executable, "-m", "effnet_zoo"]], ids=["command", "module"])
def test_the_command_and_the_module_answer_alike(start: list[str], tmp_path: Path) -> None:
    def run(*arguments: str) -> tuple[int, str, str]:
        result = subprocess.run([*start, *arguments], capture_output=True, text=True, cwd=tmp_path, check=False)
        return result.returncode, result.stdout, result.stderr

    assert run("--version") == (0, f"effnet-zoo {__version__}\n", "")
    code, out, err = run("info", "nosuch")
    assert (code, out) == (1, "")
    assert err.startswith("effnet-zoo: unknown model 'nosuch'")
    assert "Traceback" not in err
