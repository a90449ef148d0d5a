"""What is installed: the wheel holds the ledger and runs; an editable install reads the ledger in place."""

import email
import itertools
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import skimage
import torch

import effnet_zoo
from effnet_zoo.cli import ISSUES
from effnet_zoo.zoo import catalogue

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel; the build tool is in the test extra, so that no network is needed."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (path,) = out.iterdir()
    return path


def test_the_wheel_carries_the_ledger_and_no_tests(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "weights").glob("*.toml"):
        assert f"effnet_zoo/weights/{path.name}" in names
    assert "effnet_zoo/py.typed" in names
    information = f"effnet_zoo-{effnet_zoo.__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"effnet_zoo", "_effnet_zoo_command.py", information}


def test_an_installed_wheel_reads_its_own_ledger(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    code = "from effnet_zoo.zoo import catalogue as c, ledger as l; print(l.FOLDER); print(len(list(c.checkpoints())))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    folder, count = result.stdout.split()
    assert folder == str(tmp_path / "site" / "effnet_zoo" / "weights")
    assert int(count) == len(list(catalogue.checkpoints()))


def test_an_installed_wheel_has_the_command_that_its_entry_point_names(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (entries,) = (tmp_path / "site").glob("*.dist-info/entry_points.txt")
    assert "effnet-zoo = _effnet_zoo_command:main" in entries.read_text().splitlines()
    code = "import sys; sys.argv = ['effnet-zoo', '--version']; from _effnet_zoo_command import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (0, f"effnet-zoo {effnet_zoo.__version__}\n")


def test_an_editable_install_points_at_the_checkout_and_copies_nothing(tmp_path: Path) -> None:
    code = f"import hatchling.build as b; print(b.build_editable({str(tmp_path)!r}))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    archive = zipfile.ZipFile(tmp_path / result.stdout.strip().splitlines()[-1])
    (pointer,) = [name for name in archive.namelist() if name.endswith(".pth")]
    assert archive.read(pointer).decode().strip() == str(ROOT)
    assert not [name for name in archive.namelist() if name.endswith(".toml")]


@pytest.mark.slow
def test_the_wheel_installed_in_a_fresh_environment_runs_the_first_command(wheel: Path, tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    # To download torch would take minutes: the dependencies are those of this environment.
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(f"{Path(torch.__file__).parents[1]}\n")
    photo = Path(str(skimage.__file__)).parent / "data" / "coffee.png"
    command = [str(python.with_name("effnet-zoo")), "predict", str(photo), "--out", "pictures"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert re.search(r"95\.1% +967 +espresso", ran.stdout)
    assert (tmp_path / "pictures" / "coffee.png").stat().st_size
    where = [str(python), "-c", "import effnet_zoo.zoo.ledger as ledger; print(ledger.FOLDER)"]
    ran = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert Path(ran.stdout.strip()).is_relative_to(site)


def test_the_metadata_tells_what_an_index_shows(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(name))
    classifiers = metadata.get_all("Classifier") or []
    assert metadata["License-Expression"] == "Apache-2.0"
    assert not [classifier for classifier in classifiers if classifier.startswith("License")]
    for kind in ("Development Status", "Intended Audience", "Operating System", "Programming Language", "Topic"):
        assert any(classifier.startswith(f"{kind} :: ") for classifier in classifiers), kind
    urls = dict(value.split(", ") for value in metadata.get_all("Project-URL") or [])
    assert urls.keys() == {"Repository", "Documentation", "Changelog", "Issues"}
    assert urls["Issues"] == ISSUES


def test_dependencies_are_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    everything = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    assert not [requirement for requirement in everything if "==" in requirement or "<" in requirement]
    light = {"torch", "torchvision", "timm", "huggingface_hub", "msgspec", "safetensors", "pillow", "typer", "rich"}
    assert {requirement.split(">")[0] for requirement in project["dependencies"]} == light
