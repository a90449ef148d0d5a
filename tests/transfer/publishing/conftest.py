"""A folder to push, and the command beside a Hub of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import effnet_zoo
from tests import loopback, shell
from tests.shell import TOKEN, Shell
from tests.transfer.publishing.case import IMAGES, NAMES, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with small weights to push."""
    place = tmp_path_factory.mktemp("weights") / "mine"
    effnet_zoo.save(tiny(), place, license="mit", classes=NAMES, images=IMAGES)
    return place


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with loopback.serve(token=TOKEN) as hub, shell.start(hub, tmp_path_factory.mktemp("home")) as run:
        yield run
