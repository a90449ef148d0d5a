"""What cannot be published is refused before anything is written or sent."""

import math
import re
import traceback
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

import effnet_zoo
from effnet_zoo import Images
from effnet_zoo.errors import ArgumentError, EffnetZooError, HubError, WeightsError
from tests.loopback import Status
from tests.shell import Shell
from tests.transfer.publishing.case import IMAGES, NAMES, tiny


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
        ({"folder": "x" * 300}, "a name of 300 bytes: expected at most 255"),
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


def test_a_folder_that_cannot_be_written_is_refused_before_weights_are_read(
    run: Shell, tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in ("file/below", "x" * 300):
        assert "nowhere.pth" not in run("push", "nowhere.pth", "--to", tmp_path / place).complaint()


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
