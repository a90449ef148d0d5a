"""Tables that people wrote by hand have a row for everything that there is, and for nothing else."""

import importlib
import re
import tomllib

from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.runtime.int8.recipes import RECIPES
from effnet_zoo.runtime.targets.table import ENGINES, FORMATS
from tests.docs.pages import PAGES, ROOT


def first_column(page: str, heading: str) -> set[str]:
    """Return the names in backquotes in the first column of the table whose first heading is given."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    (table,) = re.findall(rf"(?m)^\| {re.escape(heading)} \|.*\n\| ---.*\n((?:\|.*\n)+)", text)
    return {name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])}


def test_every_keyword_of_a_model_is_explained() -> None:
    assert first_column("use.md", "keyword") == set(ModelOptions.__required_keys__ | ModelOptions.__optional_keys__)


def test_every_extra_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert first_column("index.md", "extra") == project["optional-dependencies"].keys()


def test_every_layout_is_explained() -> None:
    assert first_column("publishing.md", "layout") == LAYOUTS.keys()


def test_every_recipe_of_int8_is_explained() -> None:
    assert first_column("deployment.md", "recipe") == RECIPES.keys()


def test_every_engine_and_every_export_format_is_explained() -> None:
    assert first_column("speed.md", "backend") == ENGINES.keys()
    assert first_column("deployment.md", "format") == FORMATS.keys()
    for target in ENGINES.values():
        assert cells("speed.md", target.engine) == (target.extra, set(target.engine_dtypes))
    for exported in FORMATS.values():
        assert cells("deployment.md", exported.format) == (exported.extra, set(exported.file_dtypes))


def cells(page: str, name: str) -> tuple[str, set[str]]:
    """Return the extra and the dtypes in the row that begins with a name."""
    (row,) = re.findall(rf"(?m)^\| `{name}` \|.*$", (ROOT / "docs" / page).read_text(encoding="utf-8"))
    extra, dtypes = (cell.strip() for cell in row.split("|")[2:4])
    return extra.strip("`"), set(dtypes.split(", "))


def test_paths_and_modules_that_a_page_names_exist() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"`((?:effnet_zoo|tests|tools|benchmarks|weights|docs)/[\w./]*)`", text):
            assert (ROOT / path).exists(), f"{page.name}: {path}"
        for name in re.findall(r"`effnet_zoo\.([\w.]+)`", text):
            if page.name != "CHANGELOG.md":
                assert find_object(name), f"{page.name}: effnet_zoo.{name}"


def find_object(name: str) -> object:
    """Return a module or an object of a module of the package."""
    try:
        return importlib.import_module(f"effnet_zoo.{name}")
    except ModuleNotFoundError:
        module, _, attribute = name.rpartition(".")
        return getattr(importlib.import_module(".".join(["effnet_zoo", *filter(None, [module])])), attribute)
