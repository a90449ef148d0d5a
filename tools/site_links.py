"""Let the pages in ``docs/`` link to the rest of the repository, on GitHub and on the site that MkDocs builds.

A page links to a file of the repository as GitHub needs it, ``../benchmarks/README.md``. On the site, this link leads
to GitHub, and a picture from ``benchmarks/`` is copied into the site.
"""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(\.\./([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pictures of ``benchmarks/`` to the files of the site."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / "benchmarks").glob("*.png")):
        files.append(File(f"benchmarks/{path.name}", str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, config: Any, **_: Any) -> str:
    """Replace the links that leave ``docs/``."""
    return site_links(markdown, config.repo_url)


def site_links(markdown: str, repository: str) -> str:
    """Return a page with the links that leave ``docs/`` replaced.

    Raises:
        ValueError: If a link names a file that the repository does not have.
    """

    def replaced(match: re.Match[str]) -> str:
        mark, text, path, anchor = match.groups("")
        if not (ROOT / path).exists():
            raise ValueError(f"the link {match[0]} leads to no file of the repository")
        if mark:
            return f"![{text}]({path})"
        return f"[{text}]({repository.rstrip('/')}/blob/main/{path}{anchor})"

    return _LINK.sub(replaced, markdown)
