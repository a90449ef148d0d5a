"""The command, as a person and as a script sees it."""

import json
import re
import shutil
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import skimage
from PIL import Image

from effnet_zoo.cli import app
from effnet_zoo.cli.options import finite
from effnet_zoo.predict.pictures import Pictures
from effnet_zoo.predict.prediction import Guess, Prediction
from effnet_zoo.zoo import catalogue
from tests.shell import Run

PHOTOS = Path(skimage.__file__).parent / "data"


def test_every_number_with_a_fraction_is_finite() -> None:
    found = set()
    for command in app.registered_commands:
        assert command.callback is not None
        for name, annotation in get_type_hints(command.callback, include_extras=True).items():
            if "float" in str(get_args(annotation)[:1]):
                assert get_args(annotation)[1].parser is finite, (command.callback.__name__, name)
                found.add(name)
    assert found >= {"crop_pct", "bn_eps", "min_agreement"}


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "1e999", "x"])
def test_what_is_no_number_is_refused_by_every_option(run: Run, number: str) -> None:
    convert = ["convert", "nowhere.pth", "--out", "nowhere"]
    quantize = ["quantize", "nowhere.pth", "--calib", "nowhere", "--out", "nowhere.onnx"]
    for arguments in ([*convert, "--crop-pct"], [*convert, "--bn-eps"], [*quantize, "--min-agreement"]):
        code, out, err = run(*arguments, number)
        assert (code, out) == (2, "")
        assert "is not a finite number" in " ".join(err.replace("│", " ").split())  # rich breaks lines in its box
    for option in ("--mean", "--std"):
        for text in (number, f"0.5,{number},0.5"):
            code, out, err = run(*convert, option, text)
            assert (code, out) == (1, "")
            assert err.startswith(f"effnet-zoo: {option} {text!r}: expected a number for each channel")


# list and info


def test_list_shows_every_checkpoint(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].split() == ["variant", "tag", "params", "MACs", "input", "top-1", "licence"]
    for _, checkpoint in catalogue.checkpoints():
        assert [line for line in lines if line.split()[:2] == [checkpoint.variant, checkpoint.tag]], checkpoint.name
    b0 = ["effnet_zoo_b0", "ns_jft_in1k", "*", "5.3", "M", "385.8", "M", "224", "78.7", "apache-2.0"]
    assert b0 in [line.split() for line in lines]
    assert "as reported, not measured here" in out


def test_list_as_json_and_by_pattern(run: Run) -> None:
    rows = json.loads(run("list", "--json")[1])
    assert len(rows) == len(list(catalogue.checkpoints()))
    (row,) = json.loads(run("list", "efficientnetv2_xl*", "--json")[1])[:1]
    assert row["name"] == "effnet_zoo_v2_xl.in21k_ft_in1k"
    assert (row["train_size"], row["eval_size"], row["reported_top1"]) == (384, 512, 86.754)
    assert {r["tag"] for r in json.loads(run("list", "*.in21k", "--json")[1])} == {"in21k"}
    code, out, err = run("list", "effnet_zoo_b55")
    assert (code, out) == (1, "")
    assert err.startswith("effnet-zoo: no checkpoint matches 'effnet_zoo_b55'")
    assert "Did you mean 'effnet_zoo_b5'" in err


def test_info_shows_stages_preprocessing_and_provenance(run: Run) -> None:
    code, out, _ = run("info", "efficientnet-b0")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["1", "MBConv1", "3", "1", "16", "1", "0.25", "112x112"] in rows
    assert ["6", "MBConv6", "5", "2", "192", "4", "0.25", "7x7"] in rows
    for fact in ("effnet_zoo_b0.ns_jft_in1k", "bicubic, center crop 0.875 to 224 px", "JFT-300M", "arXiv:1905.11946"):
        assert fact in out
    answer = json.loads(run("info", "effnet_zoo_v2_s.in1k", "--json")[1])
    assert answer["preprocessing"]["size"] == [384, 384]
    assert [stage["operator"] for stage in answer["stages"][:3]] == ["Conv (stem)", "Conv", "Fused-MBConv4"]
    assert answer["facts"]["sha256"] == "not pinned yet"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("effnet_zoo_b9", "unknown model 'effnet_zoo_b9'.*Did you mean 'effnet_zoo_b"),
        ("effnet_zoo_b0.in2k", "unknown tag 'in2k' of effnet_zoo_b0.*Did you mean 'in1k'"),
    ],
)
def test_unknown_names_suggest_near_ones(run: Run, name: str, message: str) -> None:
    for arguments in (["info", name], ["predict", PHOTOS / "coffee.png", "--model", name]):
        code, out, err = run(*arguments)
        assert (code, out) == (1, "")
        assert len(err.splitlines()) == 1
        assert re.search(message, err)


# predict


def test_predict_names_the_real_thing_and_draws_it(run: Run, tmp_path: Path) -> None:
    where = tmp_path / "new" / "pictures"
    code, out, err = run("predict", PHOTOS / "coffee.png", PHOTOS / "chelsea.png", "--out", where)
    assert (code, err) == (0, "")
    assert "95.1%    967  espresso" in out
    assert {"tiger cat", "Egyptian cat"} <= {line.split(maxsplit=2)[-1].strip() for line in out.splitlines() if line}
    pictures = sorted(where.iterdir())
    assert [picture.name for picture in pictures] == ["chelsea.png", "coffee.png"]
    for picture in pictures:
        with Image.open(picture) as image:
            assert image.size == (1320, 552)


def test_predict_as_json_with_an_unreadable_file_among_good_ones(run: Run, tmp_path: Path) -> None:
    shutil.copy(PHOTOS / "coffee.png", tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not an image")
    (tmp_path / "c.png").write_bytes((PHOTOS / "coffee.png").read_bytes()[:5000])
    shutil.copy(PHOTOS / "rocket.jpg", tmp_path / "d.jpg")
    (tmp_path / "notes.txt").write_text("a folder's other files are left alone")
    code, out, err = run("predict", tmp_path, "--json", "--topk", "2", "--out", tmp_path / "out")
    assert code == 1
    first, broken, cut, last = json.loads(out)
    assert first["path"] == str(tmp_path / "a.png")
    assert [guess["index"] for guess in first["classes"]] == [967, 968]
    assert first["classes"][0]["probability"] == pytest.approx(0.951, abs=0.002)
    assert "not an image that Pillow can read" in broken["error"]
    assert "c.png: cannot be read" in cut["error"]
    assert last["classes"][0]["label"] == "missile"
    assert err.splitlines()[-1] == "effnet-zoo: 2 of 4 files have an error and no result"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "d.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.jpg"], "nosuch.jpg: there is no such file or folder"),
        (["empty"], "empty: no image in this folder"),
        (["*.gif"], "*.gif: there is no such file"),
        (["photo.png", "--out", "photo.png"], "photo.png/picture.png: "),
    ],
)
def test_predict_refuses_in_one_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    shutil.copy(PHOTOS / "coffee.png", tmp_path / "photo.png")
    code, out, err = run("predict", *arguments)
    assert (code, out) == (1, "")
    assert err.startswith(f"effnet-zoo: {message}")
    assert len(err.splitlines()) == 1


def test_pictures_replace_nothing_and_have_names_that_fit(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_text("the user's own")
    long, cut = "ä" * 126, "ä" * 124
    names = [f"a/{long}.j", "a/x.jpg", "b/x.jpg", "x-2.jpg", "y$\\frac$\x1b.jpg", f"b/{long}.j"]
    pictures = Pictures(tmp_path, "a model")
    places = []
    for name in names:
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path, "PNG")
        guess = Guess(index=0, label="of $\\users$ \x1b", probability=0.5)
        places.append(pictures.save(Prediction(path=path, guesses=(guess,))).name)
    assert places == [f"{cut}ä.png", "x-2.png", "x-3.png", "x-2-2.png", "y$\\frac$\x1b.png", f"{cut}-2.png"]
    assert (tmp_path / "x.png").read_text() == "the user's own"


# selftest, and how the command ends


def test_selftest_passes_here_and_says_so_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_zoo.selftest.VARIANTS", ("effnet_zoo_v2_s",))
    code, out, err = run("selftest", "--device", "cpu", "--json")
    results = json.loads(out)
    assert code == 0, results
    assert len(results) == 18
    assert all(result["error"] <= result["tolerance"] for result in results)
    assert err.strip() == "18 of 18 passed on cpu"


def test_selftest_fails_when_a_result_is_off(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effnet_zoo.selftest.VARIANTS", ("effnet_zoo_v2_s",))
    monkeypatch.setattr("effnet_zoo.selftest.case_error", lambda case: 1.0)
    code, out, err = run("selftest", "--device", "cpu")
    assert code == 1
    assert out.count("FAILED") == 18
    assert err.strip() == "0 of 18 passed on cpu"


def test_selftest_refuses_a_device_that_is_not_there(run: Run) -> None:
    code, _, err = run("selftest", "--device", "tpu")
    assert code == 1
    assert err.startswith("effnet-zoo: no device 'tpu' on this machine: expected cpu")
