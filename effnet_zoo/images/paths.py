"""How paths are written as text in result files, and remembered in few bytes."""

import hashlib
from pathlib import Path


def path_text(path: Path) -> str:
    """Returns a path as text that can be written anywhere, another text for another path.

    A path that is UTF-8 stands as it is. Another becomes its absolute ``file:`` URI, where such bytes are percent
    escapes. The two cannot meet: pathlib makes one slash of two, thus no path that stands as it is has ``file://``.
    """
    text = str(path)
    try:
        text.encode()
    except UnicodeEncodeError:
        return path.absolute().as_uri()
    return text


def digest(text: str) -> bytes:
    """Returns 16 bytes that stand for the text of a path: what is remembered of a million takes some 100 MB."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
