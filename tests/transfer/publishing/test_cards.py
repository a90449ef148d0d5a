"""The card, its figures and the entry for the ledger: what they say, and what of other people's they keep."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import effnet_zoo
from effnet_zoo import ArchSpec, EfficientNet
from effnet_zoo.checkpoints.bundle import Bundle, of_model
from effnet_zoo.errors import ArgumentError
from effnet_zoo.transfer.card import BEGIN, END, Metric, ledger_entry, parse_metric, reported_metrics
from effnet_zoo.zoo import ledger
from tests.shell import Shell
from tests.transfer.publishing.case import IMAGES, OURS, ROWS, THEIRS, tiny


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


@pytest.mark.parametrize(
    ("readme", "complaint"),
    [
        (b"---\ntags: [a\n---\n", "correct it first"),
        (b"---\n- a\n- b\n---\n", "correct it first"),
        (b"---\nmodel-index: 5\n---\n", "correct it first: model-index: expected array | null, found int"),
        (b"---\nmodel-index: [{results: [5]}]\n---\n", "model-index[0].results[0]: expected object, found int"),
        (b"---\nmodel-index: [{results: [{metrics: [a]}]}]\n---\n", "metrics[0]: expected object, found str"),
        (b"---\ntags: {a: b}\n---\n", "correct it first: tags: expected str | array | null, found object"),
        (b"---\na: " + b"[" * 3000 + b"]" * 3000 + b"\n---\n", "correct it first"),
        (b"\xff\xfe", "README.md: expected UTF-8 text: save the file as UTF-8"),
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
    assert reported_metrics(replace(as_reported, arch=replace(model.spec, padding="symmetric"))) == []
    assert reported_metrics(replace(as_reported, images=replace(checkpoint.preprocessing, crop_pct=1.0))) == []


@pytest.mark.parametrize("value", [math.nan, math.inf, -1, 101, "5", None, True])
def test_a_figure_is_a_percentage(value: Any) -> None:
    with pytest.raises(ArgumentError, match="expected a name and a percentage"):
        Metric(name="top-1 accuracy", value=value, measured=True)
    with pytest.raises(ArgumentError, match="expected a name and a percentage"):
        parse_metric(f"top1={value if value != '5' else 'five'}", measured=True)
