"""The Hub and the caches that pulls are tested with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import loopback
from tests.checkpoints.pulling import TOKEN, Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with loopback.serve(token=TOKEN) as hub:
        yield Place(hub, tmp_path / "home")
        leaked = [request for request in hub.requests if request.server == "cdn" and "authorization" in request.headers]
        assert not leaked
