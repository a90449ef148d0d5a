"""Each Python block in the documentation runs, or at least calls what exists as it has to be called."""

import os
import re
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import effnet_zoo
from effnet_zoo.zoo import catalogue
from tests.docs.calls import CallError, Checker, Instance
from tests.docs.pages import NEEDS_NETWORK, PAGES, all_blocks, blocks, name_of

BLOCKS = all_blocks("python")
WITH_CODE = sorted({block.page for block in BLOCKS})
PAGE_OF = {name_of(page): page for page in PAGES}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for engines: all pages have the same model, for which the fastest one is looked for once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture
def folder(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a photo."""
    Image.effect_noise((320, 240), 60).convert("RGB").save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EFFNET_ZOO_HOME", str(home))
    return tmp_path


@pytest.mark.parametrize("page", WITH_CODE)
def test_blocks_that_need_no_network_run_in_order(page: str, folder: Path) -> None:
    module = types.ModuleType("page")
    for block in BLOCKS:
        if block.page == page and not block.needs_network:
            exec(compile("\n" * (block.line - 1) + block.code, str(block), "exec"), vars(module))


@pytest.mark.parametrize("page", WITH_CODE)
def test_every_call_fits_its_signature(page: str) -> None:
    checker = Checker()
    for block in BLOCKS:
        if block.page == page:
            before = checker.checked
            checker.check(block.code)
            assert checker.checked > before or "(" not in block.code, f"{block}: no call was checked"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_models_and_checkpoints_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for name in set(re.findall(r"\beffnet_zoo_(?:b|lite|v2_|e[sml]|l2)[\w.]*\w", text)):
        catalogue.find(re.sub(r"\.(onnx|pt2|ts|xml)$", "", name))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("from effnet_zoo import create_model\ncreate_model('effnet_zoo_b0', in_channels=1)", "in_channels"),
        ("import effnet_zoo, timm\ntimm.create_model('effnet_zoo_b0', in_channels=1)", "in_channels"),
        ("import torch\ntorch.hub.load('org/effnet-zoo:main', 'efficientnet_b0', tag='in1k')", "tag"),
        ("from effnet_zoo import EfficientNet\nEfficientNet.from_pretrained('b0', weights='b0.pth')", "weights"),
        ("from effnet_zoo import EfficientNet\nEfficientNet.from_name('b0').forward_levels(1)", "forward_levels"),
        ("from effnet_zoo import EfficientNet\nEfficientNet.from_name('b0').freeze(stage=1)", "stage"),
        ("from effnet_zoo import engine\nengine('effnet_zoo_b0').warm_up()", "warm_up"),
        ("from effnet_zoo import engine\nengine('effnet_zoo_b0')(1, 2)", "too many positional"),
        ("from effnet_zoo import export\nexport('model')", "missing a required argument: 'path'"),
        ("effnet_zoo.create_model('effnet_zoo_b0')", "effnet_zoo is not defined"),
        ("import effnet_zoo\neffnet_zoo.make_model('effnet_zoo_b0')", "make_model"),
    ],
)
def test_a_wrong_call_would_be_found(code: str, message: str) -> None:
    checker = Checker()
    with pytest.raises((CallError, ImportError), match=message):
        checker.check(code)


@pytest.mark.parametrize(("right", "wrong"), [("in_chans=", "in_channels="), ("pretrained=", "weights=")])
def test_a_wrong_keyword_in_a_copy_of_the_readme_would_be_found(right: str, wrong: str) -> None:
    text = PAGE_OF["README.md"].read_text(encoding="utf-8").replace(right, wrong)
    code = "".join(block.code for block in blocks(text, "copy") if block.language == "python")
    checker = Checker()
    with pytest.raises(CallError, match=wrong.strip("=")):
        checker.check(code)


def test_blocks_are_found_with_their_line_and_what_they_need() -> None:
    text = f"text\n\n```python\na = 1\n```\n\n{NEEDS_NETWORK}\n\n```python\nb = 2\n```\n\n```sh\nls\n```\n"
    found = [(block.line, block.language, block.code, block.needs_network) for block in blocks(text, "page")]
    assert found == [(4, "python", "a = 1\n", False), (10, "python", "b = 2\n", True), (14, "sh", "ls\n", False)]


# The tables of the FAQ: an old call and a new one in each row.


def old_names(library: str) -> dict[str, Any]:
    """Return the names that the old calls of a section use."""
    if library == "Keras":
        os.environ["KERAS_BACKEND"] = "torch"  # read when keras is imported
        import keras

        return {"keras": keras, "probabilities": Instance(list)}
    if library == "torchvision":
        import torchvision

        return {"torchvision": torchvision, "model": Instance(torch.nn.Module)}
    if library == "timm":
        import timm

        return {"timm": timm, "model": Instance(effnet_zoo.EfficientNet)}
    import efficientnet_pytorch

    return {"EfficientNet": efficientnet_pytorch.EfficientNet, "model": Instance(efficientnet_pytorch.EfficientNet)}


def rows() -> list[tuple[str, str, str]]:
    """Return library, old call and new call of each row."""
    text = PAGE_OF["docs/faq.md"].read_text(encoding="utf-8")
    found = []
    for section in re.split(r"(?m)^## ", text)[1:]:
        library = section.split()[0]
        lines = re.findall(r"(?m)^\| (`.*`.*?) \| (.*) \|$", section)
        found += [(library, old, new) for old, new in lines]
    return found


def new_names() -> Checker:
    """Return a checker that knows the imports of the FAQ."""
    tensors = dict.fromkeys(("images", "logits"), Instance(torch.Tensor))
    checker = Checker({"model": Instance(effnet_zoo.EfficientNet), **tensors})
    for block in BLOCKS:
        if block.page == "docs/faq.md":
            checker.check(block.code)
    return checker


@pytest.mark.parametrize(("library", "old", "new"), rows(), ids=[old for _, old, _ in rows()])
def test_old_and_new_calls_fit_their_signatures(library: str, old: str, new: str) -> None:
    checker = Checker({**old_names(library), "images": Instance(torch.Tensor)})
    checker.check(old.strip("`"))
    assert checker.checked
    if "(" in new:
        checker = new_names()
        before = checker.checked
        checker.check(new.strip("`"))
        assert checker.checked > before


def test_calls_within_answers_fit_their_signatures() -> None:
    answers = re.sub(r"(?m)^\|.*$", "", PAGE_OF["docs/faq.md"].read_text(encoding="utf-8"))
    calls = re.findall(r"`([A-Za-z][\w.]*\([^`]*\))`", answers)
    assert len(calls) > 2
    for call in calls:
        new_names().check(call)


def test_the_faq_has_calls_of_four_libraries() -> None:
    libraries = [library for library, _, _ in rows()]
    assert {name: libraries.count(name) >= 5 for name in libraries} == dict.fromkeys(
        ("efficientnet_pytorch", "timm", "torchvision", "Keras"), True
    )
