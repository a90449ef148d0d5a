"""Tables that people wrote by hand have a row for everything that there is, and for nothing else."""

import re
import tomllib

from effnet_zoo.layouts import LAYOUTS
from effnet_zoo.network.options import ModelOptions
from effnet_zoo.runtime.int8.recipes import RECIPES
from tests.docs.pages import ROOT


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
