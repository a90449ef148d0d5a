"""The pages are in step with the code: tables, counts, links, the API, and the output that the README shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import skimage

import effnet_zoo
from effnet_zoo.zoo import catalogue
from tests.docs.pages import PAGES, ROOT, all_blocks, name_of
from tests.shell import Run
from tools import site_links, update_tables

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def test_the_readme_counts_what_there_is() -> None:
    models, checkpoints = len(catalogue.models()), len(list(catalogue.checkpoints()))
    assert f"{models} architectures and {checkpoints} checkpoints" in README


def test_the_readme_shows_what_its_first_command_prints(run: Run, tmp_path: Path) -> None:
    photo = Path(str(skimage.__file__)).parent / "data" / "coffee.png"
    code, out, _ = run("predict", photo)
    (shown,) = [block.code for block in all_blocks("") if block.page == "README.md"]
    assert code == 0
    assert [line.split() for line in out.splitlines() if "%" in line] == [
        line.split() for line in shown.splitlines()[1:]
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_of_the_repository(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = link.partition("#")
        if path.startswith(("https://", "http://")):
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            headings = re.findall(r"(?m)^#+ (.*)$", target.read_text(encoding="utf-8"))
            assert anchor in [re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings]


def test_links_out_of_the_docs_lead_to_the_repository_on_the_site() -> None:
    text = "[a](../SECURITY.md) [b](use.md) ![c](../benchmarks/ratios.png) [d](../benchmarks/README.md#int8)"
    assert site_links.site_links(text, "https://host/org/name/") == (
        "[a](https://host/org/name/blob/main/SECURITY.md) [b](use.md) ![c](benchmarks/ratios.png) "
        "[d](https://host/org/name/blob/main/benchmarks/README.md#int8)"
    )
    with pytest.raises(ValueError, match="leads to no file"):
        site_links.site_links("[a](../nothing.md)", "https://host")


def test_the_api_page_has_every_public_name() -> None:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert set(re.findall(r"(?m)^::: effnet_zoo\.(\w+)$", text)) == set(effnet_zoo.__all__)


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "create_model" in (tmp_path / "site" / "api" / "index.html").read_text(encoding="utf-8")


# Generated tables.


@pytest.mark.parametrize("path", list(update_tables.TABLES), ids=name_of)
def test_generated_tables_are_in_step(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == update_tables.updated(path), "run: python tools/update_tables.py"


def test_a_file_without_markers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    monkeypatch.setitem(update_tables.TABLES, page, {"one": lambda: "1", "two": lambda: "2"})
    one, two = (update_tables.BEGIN.format(name) for name in ("one", "two"))
    for text in ("no markers", f"{one} {update_tables.END}", f"{one} {two}", f"{two} {update_tables.END} {one}"):
        page.write_text(text)
        with pytest.raises(ValueError, match="expected the markers"):
            update_tables.updated(page)
    page.write_text(f"a {two} old {update_tables.END} b {one} older {update_tables.END} c")
    assert update_tables.updated(page) == (f"a {two}\n\n2\n\n{update_tables.END} b {one}\n\n1\n\n{update_tables.END} c")


def test_check_names_a_stale_file_and_leaves_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.md"
    stale = f"{update_tables.BEGIN.format('one')} old {update_tables.END}"
    page.write_text(stale)
    monkeypatch.setattr(update_tables, "ROOT", tmp_path)
    monkeypatch.setattr(update_tables, "TABLES", {page: {"one": lambda: "new"}})
    monkeypatch.setattr(sys, "argv", ["update_tables.py", "--check"])
    with pytest.raises(SystemExit, match=r"^page\.md: out of date: run python tools/update_tables\.py$"):
        update_tables.main()
    assert page.read_text() == stale
    monkeypatch.setattr(sys, "argv", ["update_tables.py"])
    update_tables.main()
    assert "new" in page.read_text()
    monkeypatch.setattr(sys, "argv", ["update_tables.py", "--check"])
    update_tables.main()


def test_every_room_is_in_the_table_once_with_one_sentence() -> None:
    rows = update_tables.rooms_table().splitlines()[2:]
    here = {
        path.stem
        for path in (ROOT / "effnet_zoo").iterdir()
        if path.suffix == ".py" or (path / "__init__.py").is_file()
    }
    assert sorted(re.findall(r"\[`(\w+)`\]", "".join(rows))) == sorted(here - {"__init__"})
    assert all(re.search(r"\| [A-Z`].*[.?] \|$", row) for row in rows)


def test_the_first_sentence_of_a_docstring_is_taken(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Read ``x.y`` files\nof two lines. Then more.\n\nAnd more.\n"""\n')
    assert update_tables.first_sentence(module) == "Read `x.y` files of two lines."
    module.write_text("a = 1\n")
    with pytest.raises(ValueError, match="expected a docstring"):
        update_tables.first_sentence(module)
