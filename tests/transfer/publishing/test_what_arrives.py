"""What was published loads everywhere with the same logits, arguments and class names."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import effnet_zoo
from effnet_zoo import EfficientNet
from effnet_zoo.numerics import randomise, relative_error
from effnet_zoo.zoo import ledger
from tests import loopback
from tests.shell import Shell
from tests.transfer.publishing.case import IMAGES, NAMES, OURS, tiny


def logits(model: nn.Module) -> Tensor:
    image = torch.randn(1, int(str(model.in_chans)), 64, 64, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        out: Tensor = model.eval().double()(image)
    return out


def rates(model: nn.Module) -> dict[str, float]:
    """Of stochastic depth, by block; timm counts those without a shortcut too, where it does nothing."""
    found = {name: float(getattr(module, "drop_prob", 0) or 0) for name, module in model.named_modules()}
    return {name: rate for name, rate in found.items() if rate}


PLAIN: dict[str, Any] = {"num_classes": 7, "in_chans": 3, "drop_rate": 0.2, "drop_path_rate": 0.2, "bn_eps": 1e-3}
PLAIN |= {"padding": "same", "global_pool": "avg", "output_stride": None}


@settings(max_examples=8, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@example(**PLAIN | {"num_classes": 0, "global_pool": "catavgmax", "in_chans": 1})
@example(**PLAIN | {"num_classes": 0, "global_pool": "", "in_chans": 13})
@example(**PLAIN | {"global_pool": "catavgmax", "padding": "symmetric", "bn_eps": 1e-5})
@given(
    num_classes=st.sampled_from([0, 1, 7, 1000]),
    in_chans=st.sampled_from([1, 3, 4, 13]),
    drop_rate=st.sampled_from([0.0, 0.35]),
    drop_path_rate=st.sampled_from([0.0, 0.1]),
    bn_eps=st.sampled_from([1e-3, 1e-5]),
    padding=st.sampled_from(["same", "symmetric"]),
    global_pool=st.sampled_from(["avg", "max", "avgmax", "catavgmax", ""]),
    output_stride=st.sampled_from([None, 16]),
)
def test_every_argument_survives(**options: Any) -> None:
    if options["global_pool"] == "":
        options["num_classes"] = 0
    saved = randomise(effnet_zoo.create_model("effnet_zoo_lite0", **options), seed=1)
    assert isinstance(saved, EfficientNet)
    expected = logits(saved)
    with tempfile.TemporaryDirectory() as place:
        effnet_zoo.save(saved.float(), place, license="mit")
        for create in (timm.create_model, effnet_zoo.create_model):
            loaded: Any = create(f"local-dir:{place}", pretrained=True)
            assert relative_error(logits(loaded), expected) <= 1e-10
            assert loaded.num_classes == options["num_classes"]
            assert loaded.drop_rate == options["drop_rate"]
            expected_rates, found = rates(saved), rates(loaded)
            assert bool(expected_rates) == (options["drop_path_rate"] > 0)
            assert {name: found.get(name) for name in expected_rates} == pytest.approx(expected_rates)
            norms = [module for module in loaded.modules() if isinstance(module, nn.BatchNorm2d)]
            assert {norm.eps for norm in norms} == {options["bn_eps"]}


def test_a_network_of_ones_own_loads_with_timm_where_this_package_is_imported(tmp_path: Path) -> None:
    saved = tiny()
    done = effnet_zoo.save(saved, tmp_path / "own", license="mit", images=IMAGES)
    assert {change.path for change in done.changes} == OURS
    assert json.loads((tmp_path / "own" / "config.json").read_text())["architecture"] == "effnet_zoo_custom"
    for create in (timm.create_model, effnet_zoo.create_model):
        loaded: Any = create(f"local-dir:{tmp_path / 'own'}", pretrained=True)
        assert relative_error(logits(loaded), logits(saved)) <= 1e-10


ELSEWHERE = """
import json, sys, timm, torch
wanted = json.loads(sys.argv[1])
found = {}
def logits(model, channels):
    x = torch.randn(1, channels, 64, 64, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        out = model.eval().double()(x)
    return getattr(out, "logits", out).flatten().tolist()
for name, channels in wanted["hub"]:
    model = timm.create_model("hf-hub:" + name, pretrained=True)
    found["timm " + name] = logits(model, channels)
    found["labels " + name] = model.pretrained_cfg.get("label_names")
    found["mean " + name] = list(timm.data.resolve_model_data_config(model)["mean"])
assert "effnet_zoo" not in sys.modules, "it was to be loaded without"
import effnet_zoo
for name, channels in wanted["hub"]:
    found["effnet_zoo " + name] = logits(effnet_zoo.create_model("hf-hub:" + name, pretrained=True), channels)
try:
    from transformers import AutoModelForImageClassification
except ImportError:
    pass
else:
    for name, place, channels in wanted["folders"]:
        model = AutoModelForImageClassification.from_pretrained(place)
        found["transformers " + name] = logits(model, channels)
        found["id2label " + name] = list(model.config.id2label.values())
print(json.dumps(found))
"""


def test_what_is_pushed_loads_without_this_package_with_it_and_with_transformers(run: Shell, tmp_path: Path) -> None:
    strange: Any = effnet_zoo.create_model(
        "effnet_zoo_lite0",
        num_classes=3,
        in_chans=1,
        global_pool="catavgmax",
        padding="symmetric",
        bn_eps=1e-5,
        drop_rate=0.4,
        drop_path_rate=0.1,
    )
    randomise(strange, seed=2)
    effnet_zoo.save(strange, tmp_path / "strange", license="mit", classes=["x", "y", "z"], images=IMAGES)
    assert "for weights" not in run("push", tmp_path / "strange", "tester/strange").answer(), (
        "the ledger cannot say that"
    )
    entry = run("push", "effnet_zoo_lite0.pypi_in1k", "tester/lite0").answer().partition("for weights/*.toml:\n\n")[2]

    (checkpoint,) = ledger.parse(f"{entry.strip()}\ndefault = true\n", "pasted")["effnet_zoo_lite0"].values()
    weights = run.hub.files("tester/lite0")["model.safetensors"]
    assert checkpoint.sha256 == loopback.File(weights, lfs=True).sha256
    assert checkpoint.revision == run.hub.repos["tester/lite0"].find("main")
    assert (checkpoint.hub_id, checkpoint.license) == ("tester/lite0", "apache-2.0")

    published: Any = timm.create_model("effnet_zoo_lite0.pypi_in1k", pretrained=True)
    wanted = {"hub": [("tester/strange", 1), ("tester/lite0", 3)], "folders": [("strange", f"{tmp_path}/strange", 1)]}
    result = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, json.dumps(wanted)],
        env={**os.environ, "EFFNET_ZOO_HOME": "", "EFFNET_ZOO_MIRRORS": "", **run.hub.environment(tmp_path / "home")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout.splitlines()[-1])
    for name, model in (("strange", strange), ("lite0", published)):
        for loader in ("timm tester/", "effnet_zoo tester/", "transformers "):
            if f"{loader}{name}" in found:
                assert relative_error(torch.tensor(found[f"{loader}{name}"]).double(), logits(model)[0]) <= 1e-6
    assert found["labels tester/strange"] == ["x", "y", "z"]
    assert found["mean tester/strange"] == [0.5, 0.4, 0.3]
    assert found["mean tester/lite0"] == [0.5, 0.5, 0.5]
    if "transformers strange" in found:
        assert found["id2label strange"] == ["x", "y", "z"]


def test_class_names_travel_to_predictions(run: Shell, folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (80, 70), (200, 100, 50)).save(tmp_path / "photo.png")
    run("push", folder, "tester/named").answer()
    home = {"EFFNET_ZOO_HOME": str(tmp_path / "home")}
    answer = run("predict", tmp_path / "photo.png", "--model", "hf-hub:tester/named", "--json", **home).answer()
    assert {guess["label"] for guess in json.loads(answer)[0]["classes"]} == set(NAMES)


@pytest.mark.parametrize("form", ["text", "list", "indices", "class_to_idx", "folders"])
def test_class_names_travel_from_whatever_they_are_in(run: Shell, folder: Path, tmp_path: Path, form: str) -> None:
    names = ["apple pie", "bibimbap", "crêpe", "donut", "eggs"]
    place = tmp_path / {"text": "names.txt", "folders": "train"}.get(form, "names.json")
    if form == "folders":
        for name in reversed(names):
            (place / name).mkdir(parents=True)
        (place / "readme.txt").write_text("not a class")
    else:
        contents = {
            "text": "\ufeff" + "\r\n".join(names) + "\r\n\r\n",
            "list": json.dumps(names),
            "indices": json.dumps({str(index): names[index] for index in (3, 0, 1, 4, 2)}),
            "class_to_idx": json.dumps({names[index]: index for index in (3, 0, 1, 4, 2)}),
        }
        place.write_text(contents[form], encoding="utf-8", newline="")
    run("push", folder, "--to", tmp_path / "out", "--classes", place).answer()
    config = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert config["label_names"] == names
    loaded: Any = effnet_zoo.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert loaded.pretrained_cfg["label_names"] == names
