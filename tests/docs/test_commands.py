"""Each command line in the documentation is one that the command accepts."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

from effnet_zoo.layouts import LAYOUTS
from tests.docs.commands import CommandError, command_lines, parse
from tests.docs.pages import PAGES, ROOT, all_blocks, blocks, name_of
from tests.shell import Run

LINES = [(str(block), line) for block in all_blocks("sh") for line in command_lines(block.code)]
INLINE = re.compile(r"`(effnet-zoo [a-z][^`]*)`")


@pytest.mark.parametrize(("place", "line"), LINES, ids=[f"{place} {line[:50]}" for place, line in LINES])
def test_a_command_line_is_accepted(place: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_within_sentences_are_accepted(page: Path) -> None:
    for line in INLINE.findall(page.read_text(encoding="utf-8")):
        if len(line.split()) > 2:
            parse(line.replace(" ... ", " "))
        else:  # only the name of a command
            parse(f"{line} --help")


@pytest.mark.parametrize("line", [line for _, line in LINES if line.split()[1] in ("list", "info")])
def test_commands_that_need_no_weights_run(line: str, run: Run) -> None:
    code, out, err = run(*shlex.split(line)[1:])
    assert (code, err) == (0, "")
    assert out


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("effnet-zoo predict photo.jpg --modle effnet_zoo_b0", "No such option"),
        ("effnet-zoo predict photo.jpg --topk few", "--topk.*valid int"),
        ("effnet-zoo export mine --static", "requires an argument"),
        ("effnet-zoo convert mine.pth", "Missing option '--out'"),
        ("effnet-zoo predct photo.jpg", "No such command"),
        ("effnet-zoo info effnet_zoo_b0 more", "unexpected extra argument"),
    ],
)
def test_a_wrong_command_line_would_be_found(line: str, message: str) -> None:
    with pytest.raises(CommandError, match=message):
        parse(line)


@pytest.mark.parametrize(
    ("option", "wrong"), [("--output", "--outputs"), ("--min-agreement", "--min-agree"), ("--dry-run", "--dry")]
)
def test_a_wrong_option_in_a_copy_of_the_readme_would_be_found(option: str, wrong: str) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace(option, wrong)
    lines = [line for block in blocks(text, "copy") if block.language == "sh" for line in command_lines(block.code)]
    with pytest.raises(CommandError, match=f"No such option:? '?{wrong}"):  # with quotes in some versions of click
        [parse(line) for line in lines]


def test_extras_and_layouts_that_commands_name_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    code = "".join(block.code for block in all_blocks("sh"))
    named = re.findall(r"(?:effnet-zoo|\.)\[([a-z,]+)\]", code)
    assert named
    assert {extra for names in named for extra in names.split(",")} <= extras.keys()
    assert {parse(line)["to"] for _, line in LINES if line.split()[1] == "convert"} <= {*LAYOUTS, "keras"}
