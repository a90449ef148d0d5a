"""The pages that people read, and the blocks of code and the tables in them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
NEEDS_NETWORK = "<!-- needs the network -->"
"""Stands before a block that is checked, but cannot be run in the tests."""

_FENCE = re.compile(r"(?ms)^(?P<note><!-- [^\n]* -->\n\n)?```(?P<language>\w*)\n(?P<code>.*?)^```$")


@dataclass(frozen=True)
class Block:
    """A block of code: its language, its text, the line where it begins, and whether it needs the network."""

    page: str
    line: int
    language: str
    code: str
    needs_network: bool = False

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def name_of(page: Path) -> str:
    """Return a page's path in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(text: str, page: str) -> Iterator[Block]:
    """Yield the blocks of code of a page."""
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start("code")) + 1
        yield Block(page, line, match["language"], match["code"], NEEDS_NETWORK in (match["note"] or ""))


def all_blocks(language: str) -> list[Block]:
    """Return the blocks of all pages that are in one language."""
    found = [block for page in PAGES for block in blocks(page.read_text(encoding="utf-8"), name_of(page))]
    return [block for block in found if block.language == language]
