"""A new variant is one row in its family's table and one entry in the ledger; every list of models follows."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import effnet_zoo
from effnet_zoo.zoo import ledger

PACKAGE = Path(effnet_zoo.__file__).parent
ROW_OF_B8 = '    Variant("b8", V1,     32,   2.2,   3.6,   672,   0.5),\n'
ROW_OF_B9 = '    Variant("b9", V1,     32,   2.4,   4.1,   736,   0.5),\n'
ENTRY = """
[effnet_zoo_b9.own_in1k]
default = true
hub_id = "someone/effnet-b9"
num_classes = 1000
train_size = 736
eval_size = 736
crop_pct = 0.95
crop_mode = "center"
interpolation = "bicubic"
mean = [0.5, 0.5, 0.5]
std = [0.5, 0.5, 0.5]
license = "apache-2.0"
source = "https://example.org/effnet-b9"
training_data = "ImageNet-1k"
recipe = "plain"
"""

LOOK = """
import json, timm, effnet_zoo, hubconf
from effnet_zoo.zoo import catalogue
model, checkpoint = catalogue.find("efficientnet-b9")
built = timm.create_model("effnet_zoo_b9", num_classes=7, device="meta")
hub = hubconf.efficientnet_b9(num_classes=7, device="meta")
print(json.dumps({
    "parameters": [sum(p.numel() for p in each.parameters()) for each in (built, hub)],
    "declared": model.spec.parameters(num_classes=7),
    "checkpoint": checkpoint.name,
    "timm": timm.list_models("effnet_zoo_b9*", pretrained=True),
    "filters": model.spec.head_filters,
}))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the checkout with one more row and one more entry."""
    shutil.copytree(PACKAGE, tmp_path / "effnet_zoo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ledger.FOLDER, tmp_path / "weights", dirs_exist_ok=True)
    shutil.copy(PACKAGE.parent / "hubconf.py", tmp_path)
    table, entries = tmp_path / "effnet_zoo/arch/families.py", tmp_path / "weights/efficientnet.toml"
    text = table.read_text(encoding="utf-8")
    assert text.count(ROW_OF_B8) == 1
    table.write_text(text.replace(ROW_OF_B8, ROW_OF_B8 + ROW_OF_B9), encoding="utf-8")
    entries.write_text(entries.read_text(encoding="utf-8") + ENTRY, encoding="utf-8")
    return tmp_path


def test_a_row_and_an_entry_are_all_that_a_new_variant_needs(checkout: Path) -> None:
    def python(*arguments: str) -> Any:
        environment = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, *arguments]
        out = subprocess.run(command, check=True, capture_output=True, text=True, cwd=checkout, env=environment).stdout
        return json.loads(out)

    found = python("-c", LOOK)
    assert found["parameters"] == [found["declared"]] * 2
    assert found["checkpoint"] == "effnet_zoo_b9.own_in1k"
    assert found["timm"] == ["effnet_zoo_b9.own_in1k"]
    assert found["filters"] == 3072  # 1280 times 2.4
    (listed,) = python("-m", "effnet_zoo", "list", "b9", "--json")
    assert (listed["variant"], listed["hub_name"], listed["eval_size"]) == ("effnet_zoo_b9", "efficientnet_b9", 736)
