"""What is installed: the ledger travels in the wheel, is read in place when editable, and the tables are in step."""

import itertools
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import effnet_zoo
from effnet_zoo.zoo import catalogue, ledger
from tools import update_tables

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("path", list(update_tables.TABLES), ids=lambda path: str(path.relative_to(ROOT)))
def test_generated_tables_are_in_step(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == update_tables.updated(path), "run: python tools/update_tables.py"


def test_readme_counts_what_there_is() -> None:
    models, checkpoints = len(catalogue.models()), len(list(catalogue.checkpoints()))
    assert f"{models}\narchitectures, {checkpoints} checkpoints" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_file_without_markers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    monkeypatch.setitem(update_tables.TABLES, page, {"one": lambda: "1", "two": lambda: "2"})
    one, two = (update_tables.BEGIN.format(name) for name in ("one", "two"))
    for text in ("no markers", f"{one} {update_tables.END}", f"{one} {two}", f"{two} {update_tables.END} {one}"):
        page.write_text(text)
        with pytest.raises(ValueError, match="expected the markers"):
            update_tables.updated(page)
    page.write_text(f"a {two} old {update_tables.END} b {one} older {update_tables.END} c")
    assert update_tables.updated(page) == (f"a {two}\n\n2\n\n{update_tables.END} b {one}\n\n1\n\n{update_tables.END} c")


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


def test_the_checkout_reads_the_ledger_at_its_top() -> None:
    assert ledger.FOLDER.resolve() in (ROOT / "weights", Path(effnet_zoo.__file__).parent / "weights")


def test_dependencies_are_ranges() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    everything = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    assert not [requirement for requirement in everything if "==" in requirement or "<" in requirement]
    light = {"torch", "torchvision", "timm", "huggingface_hub", "msgspec", "safetensors", "pillow", "typer", "rich"}
    assert {requirement.split(">")[0] for requirement in project["dependencies"]} == light
