"""Mirrors and files that are brought by hand."""

import shutil
from pathlib import Path

import pytest

from tests import loopback
from tests.checkpoints.pulling import FILE, GOOD, NEWER, NOWHERE, REPO, TOKEN, WEIGHTS, Place, kept, sha256
from tests.loopback import Flip


def test_mirrors_are_asked_in_order_and_one_that_is_wrong_is_passed_over_and_left_alone(
    place: Place, tmp_path: Path
) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    wrong = tmp_path / "folder" / REPO / FILE
    wrong.parent.mkdir(parents=True)
    wrong.write_bytes(NEWER)
    with loopback.serve() as empty, loopback.serve() as liar, loopback.serve() as good:
        assert {mirror.put(REPO, {FILE: WEIGHTS}) for mirror in (liar, good)} == {commit}
        flips = liar.fault("GET", ".", Flip(offset=77), server="cdn", times=None)
        mirrors = [empty.url, str(tmp_path / "none"), str(tmp_path / "folder"), f"{liar.url}/", good.url]
        name, pin = f"{REPO}@{commit}", f"sha256={GOOD!r}"
        first, warm = place.run(
            f"pull({name!r}, {pin})\nblock()\npull({name!r}, {pin})", EFFNET_ZOO_MIRRORS=",".join(mirrors)
        )
        assert first.loaded == warm.loaded == GOOD
        assert warm.touched == 0
        asked = [[r for r in mirror.requests if REPO in r.path] for mirror in (empty, liar, good)]
        assert all(asked)
        assert flips.hits == 2
        assert not [request for request in liar.requests if request.path.startswith("//")]
        assert not [r for requests in asked for r in requests if "authorization" in r.headers]
    assert not [request for request in place.hub.requests if REPO in request.path]
    assert wrong.read_bytes() == NEWER
    assert kept(place.cache) == {GOOD}


def test_where_no_mirror_has_it_the_hub_is_asked_with_its_token_and_an_error_names_them_all_without_secrets(
    place: Place, tmp_path: Path
) -> None:
    place.hub.create(REPO, private=True)
    place.hub.put(REPO, {FILE: WEIGHTS})
    with loopback.serve() as mirror:
        secret = mirror.url.replace("//", "//user:secret@")
        mirrors = f"{secret}, {tmp_path / 'none'}"
        found, missing = place.run("pull()\npull('org/none')", EFFNET_ZOO_MIRRORS=mirrors)
        sent = [request.headers.get("authorization", "") for request in mirror.requests if "/resolve/" in request.path]
    assert found.loaded == GOOD
    assert len(sent) == 2
    assert not [header for header in sent if TOKEN in header]
    sent = [r.headers.get("authorization", "") for r in place.hub.requests if REPO in r.path and r.server == "hub"]
    assert set(sent) == {f"Bearer {TOKEN}"}
    assert missing.error is not None
    assert f"{mirror.url}: no such repository" in missing.error
    assert f"{tmp_path}/none/org/none/{FILE}: there is no such file" in missing.error
    assert f"{place.hub.url}: no such repository, or a private one (HTTP 404)" in missing.error
    assert "secret" not in missing.error


def test_a_mirrors_file_is_held_to_the_lock(place: Place, tmp_path: Path) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    place.run("pull()")
    shutil.rmtree(place.cache / "models--org--model" / "snapshots")
    with loopback.serve() as mirror:
        mirror.put(REPO, {FILE: NEWER})
        (pulled,) = place.run("pull()", EFFNET_ZOO_MIRRORS=mirror.url)
        assert mirror.requests
    assert pulled.loaded == GOOD


BY_HAND = f"""
hub.FIRST_PAUSE = 0.5
pull()
folder = Path("by hand").resolve()
(folder / {REPO!r}).mkdir(parents=True)
shutil.copy({{weights!r}}, folder / {REPO!r} / {FILE!r})
os.environ["EFFNET_ZOO_MIRRORS"] = str(folder)
block()
pull()
shutil.copy({{newer!r}}, folder / {REPO!r} / {FILE!r})
pull()
"""


def test_cold_and_offline_is_soon_an_error_that_says_how_to_bring_the_file_and_that_works(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").write_bytes(WEIGHTS)
    (tmp_path / "newer").write_bytes(NEWER)
    code = BY_HAND.format(weights=str(tmp_path / "weights"), newer=str(tmp_path / "newer"))
    cold, brought, other = place.run(code, HF_ENDPOINT=NOWHERE)
    assert cold.error == (
        f"cannot get {FILE} of {REPO} (revision main): {NOWHERE}: [Errno 111] Connection refused: check the network. "
        f"To bring it by hand, put {NOWHERE}/{REPO}/resolve/main/{FILE} at FOLDER/{REPO}/{FILE} "
        "and set EFFNET_ZOO_MIRRORS=FOLDER"
    )
    assert cold.seconds < 6
    assert brought.loaded == GOOD
    assert brought.touched == 0
    assert other.error is not None
    assert f"by hand/{REPO}/{FILE} is not the file that the lock file " in other.error
    assert f"names: expected sha256 {GOOD}, got {sha256(NEWER)}" in other.error
    assert (tmp_path / "by hand" / REPO / FILE).read_bytes() == NEWER
