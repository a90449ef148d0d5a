"""What is in the cache: found without a request, held to its hash, replaced when it is damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from effnet_zoo.checkpoints.cache import RemoteFile
from effnet_zoo.errors import HubError
from tests import loopback
from tests.checkpoints.pulling import FILE, GOOD, NEWER, REPO, WEIGHTS, Place, kept, lock_file, sha256
from tests.loopback import Flip


def test_a_pinned_checkpoint_is_fetched_by_its_commit_once_and_then_without_any_connection(place: Place) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    place.hub.put(REPO, {FILE: NEWER})
    name = f"{REPO}@{commit}"
    cold, warm, elsewhere = place.run(
        f"pull({name!r}, sha256={GOOD!r})\nblock()\npull({name!r}, sha256={GOOD!r})\npull('org/elsewhere')"
    )
    assert cold.loaded == warm.loaded == GOOD
    assert warm.touched == 0
    assert elsewhere.touched > 0, "the block does not block"
    assert place.asked("GET", "cdn") == 1
    assert not lock_file(place.cache).parent.exists()


def test_a_checkpoint_without_a_pin_is_locked_to_the_first_download(place: Place) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS, "sub/config.json": b"{}"})
    first, config = place.run("pull()\npull(filename='sub/config.json')")
    assert (first.loaded, config.loaded) == (GOOD, sha256(b"{}"))
    assert json.loads(lock_file(place.cache).read_text()) == {"revision": commit, "sha256": GOOD}
    entry = {"revision": commit, "sha256": sha256(b"{}")}
    assert json.loads(lock_file(place.cache, filename="sub/config.json").read_text()) == entry
    place.hub.put(REPO, {FILE: NEWER})
    shutil.rmtree(place.cache / "models--org--model" / "snapshots")
    shutil.rmtree(place.cache / "models--org--model" / "blobs")
    code = "pull()\npull(filename='sub/config.json')\nblock()\npull()\n" + "pull(filename='sub/config.json')\n" * 2
    locked, _, warm, config, config_again = place.run(code)
    assert locked.loaded == warm.loaded == GOOD, "the branch has moved on, the lock has not"
    assert config.loaded == config_again.loaded == sha256(b"{}")
    assert (warm.touched, config.touched, config_again.touched) == (0, 0, 0)
    # The commit is there and holds something else, as after a rewritten history.
    file = loopback.File(NEWER, lfs=True)
    place.hub.repos[REPO].trees[commit][FILE] = file
    place.hub.repos[REPO].objects[file.sha256] = NEWER
    shutil.rmtree(place.cache / "models--org--model" / "snapshots")
    (other,) = place.run("pull()")
    assert other.error is not None
    assert (
        f"downloaded twice, both times not the file that the lock file {lock_file(place.cache)} names: " in other.error
    )
    assert f"expected sha256 {GOOD}, got {sha256(NEWER)}" in other.error
    assert json.loads(lock_file(place.cache).read_text()) == {"revision": commit, "sha256": GOOD}


BY_THE_CLIENT = f"""
from huggingface_hub import hf_hub_download
hf_hub_download({REPO!r}, {FILE!r})
if {{blocked}}:
    block()
pull()
block()
pull()
"""


@pytest.mark.parametrize("flipped", [False, True])
def test_a_file_that_the_client_alone_put_in_the_cache_is_held_to_its_blobs_name_and_locked(
    place: Place, flipped: bool
) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    script = place.hub.fault("GET", ".", Flip(offset=500), server="cdn", times=int(flipped))
    first, again = place.run(BY_THE_CLIENT.format(blocked=not flipped))
    assert script.hits == int(flipped)
    assert place.asked("GET", "cdn") == 1 + flipped
    assert first.loaded == again.loaded == GOOD
    assert (first.touched, again.touched) == (0, 0)
    assert json.loads(lock_file(place.cache).read_text()) == {"revision": commit, "sha256": GOOD}
    assert kept(place.cache) == {GOOD}


ROTTEN = """
pull(*{of})
[path] = Path(cache.cache_folder()).glob("*/snapshots/*/*")
{damage}
pull(*{of})
{damage}
block()
pull(*{of})
print(json.dumps(dict(loaded=None, error=str(path.exists()), path=None, seconds=0, touched=0)))
pull(*{of})
"""


@pytest.mark.parametrize("damage", ["flip(path)", "os.truncate(path, 500)"])
@pytest.mark.parametrize("pinned", [False, True])
def test_a_cached_file_gone_bad_is_replaced_or_without_a_network_an_error_and_never_loaded(
    place: Place, damage: str, pinned: bool
) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    of = (f"{REPO}@{commit}", FILE, GOOD) if pinned else ()
    cold, again, bad, there, still = place.run(ROTTEN.format(of=of, damage=damage))
    assert cold.loaded == again.loaded == GOOD
    assert place.asked("GET", "cdn") == 2
    for error in (bad.error, still.error):
        assert error is not None
        assert f"cannot get {FILE} of {REPO}" in error
    assert bad.error is not None
    told_by = "the ledger" if pinned else f"the lock file {lock_file(place.cache)}"
    assert f"{cold.path} is not the file that {told_by} names: expected sha256 {GOOD}, got" in bad.error
    assert "it was left there, not loaded." in bad.error
    assert (f"If {lock_file(place.cache)} is wrong, correct it, or delete it with a network." in bad.error) == (
        not pinned
    )
    assert bad.touched, "no other file was looked for"
    assert there.error == "True"
    assert not [path for path in place.cache.iterdir() if path.name.startswith(".effnet-zoo")]


WRONG_DIGIT = """
pull()
[lock] = Path(cache.cache_folder()).glob("*/effnet-zoo/*.json")
right = lock.read_text()
lock.write_text(right.replace(json.loads(right)["sha256"], "0" * 64))
if {offline}:
    block()
pull()
if {offline}:
    lock.write_text(right)
else:
    lock.unlink()
pull()
"""


@pytest.mark.parametrize("offline", [True, False])
def test_a_wrong_digit_in_a_lock_file_costs_no_weights(place: Place, offline: bool) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    first, refused, again = place.run(WRONG_DIGIT.format(offline=offline))
    lock = lock_file(place.cache)
    assert refused.error is not None
    assert f"is not the file that the lock file {lock} names: expected sha256 {'0' * 64}, got {GOOD}" in refused.error
    assert (
        f"it was left there, not loaded. If {lock} is wrong, correct it, or delete it with a network" in refused.error
    )
    assert first.loaded == again.loaded == GOOD
    assert kept(place.cache) == {GOOD}
    assert place.asked("GET", "cdn") == (1 if offline else 2), "only to compare"


COUNTED = """
from effnet_zoo import atomic_io
plain, hashed = atomic_io.sha256, []
def counting(path):
    hashed.append(path)
    return plain(path)
atomic_io.sha256 = counting
for _ in range(2):
    pull()
    assert len(hashed) == 1, hashed
    hashed.clear()
"""


def test_a_file_is_hashed_once_a_load_whether_new_cached_or_a_mirrors(place: Place, tmp_path: Path) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    (tmp_path / "mirror" / REPO).mkdir(parents=True)
    (tmp_path / "mirror" / REPO / FILE).write_bytes(WEIGHTS)
    for mirrors, home in (("", "one"), (str(tmp_path / "mirror"), "two")):
        pulled = place.run(COUNTED, EFFNET_ZOO_MIRRORS=mirrors, EFFNET_ZOO_HOME=str(tmp_path / home))
        assert [one.loaded for one in pulled] == [GOOD, GOOD]
        assert json.loads(lock_file(tmp_path / home / "hub").read_text())["sha256"] == GOOD


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"revision": 1, "sha256": null}',
        '{"revision": null, "sha256": "abc"}',
        b"\xff".decode("latin1"),
    ],
)
def test_a_damaged_lock_file_is_an_error_that_names_it_until_it_is_deleted(place: Place, content: str) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    path = lock_file(place.cache)
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin1")
    damaged, anew = place.run(f"pull()\nos.unlink({str(path)!r})\npull()")
    assert damaged.error is not None
    assert damaged.error.startswith(str(path))
    assert f"expected a commit and a sha256 in JSON; delete it to record {FILE} of {REPO}" in damaged.error
    assert anew.loaded == GOOD
    assert json.loads(path.read_text())["sha256"] == GOOD


def test_a_lock_that_cannot_be_written_is_a_warning_and_the_weights_are_loaded(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    (pulled,) = place.run(
        """
import errno, warnings
from effnet_zoo import atomic_io
def read_only(path, text, **_):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
Path.write_text = read_only
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    pull()
assert any("the file system is read-only" in str(warning.message) for warning in caught), caught
"""
    )
    assert pulled.loaded == GOOD


def test_a_bad_file_that_cannot_be_replaced_is_an_error_and_is_not_loaded(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    first, bad = place.run(
        """
import errno
pull()
flip(next(Path(cache.cache_folder()).glob("*/blobs/*")))
def refuse(source, target):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(target))
hub.os = types.SimpleNamespace(**{**vars(os), "replace": refuse})
pull()
"""
    )
    assert bad.error is not None
    assert f"the file system is read-only: name another place: {first.path} is not the expected file" in bad.error


def test_hf_hub_offline_loads_what_is_there_and_names_what_is_not_without_any_connection(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    place.run("pull()")
    place.hub.clear()
    warm, cold, bad = place.run(
        "block()\npull()\npull('org/other')\nflip(next(Path(cache.cache_folder()).glob('*/blobs/*')))\npull()",
        HF_HUB_OFFLINE="1",
    )
    assert warm.loaded == GOOD
    assert cold.error is not None
    assert cold.error.startswith(
        f"cannot get {FILE} of org/other (revision main): {place.hub.url}: not asked because HF_HUB_OFFLINE is set"
    )
    assert bad.error is not None
    assert f"expected sha256 {GOOD}, got" in bad.error
    assert "it was left there, not loaded" in bad.error
    assert (warm.touched, cold.touched, bad.touched) == (0, 0, 0)
    assert not place.hub.requests


def test_the_cache_is_the_given_folder_or_effnet_zoo_home_or_the_clients(place: Place, tmp_path: Path) -> None:
    commit = place.hub.put(REPO, {FILE: WEIGHTS})
    folders = {name: tmp_path / name for name in ("given", "mine", "theirs")}
    place.run(f"pull(cache_dir={str(folders['given'])!r})", EFFNET_ZOO_HOME=str(folders["mine"]))
    assert [folder.exists() for folder in (*folders.values(), place.cache)] == [True, False, False, False]
    place.run("pull()", EFFNET_ZOO_HOME=str(folders["mine"]), HF_HUB_CACHE=str(folders["theirs"]))
    assert (folders["mine"] / "hub" / "models--org--model" / "snapshots" / commit / FILE).is_file()
    assert lock_file(folders["mine"] / "hub").is_file()
    assert not folders["theirs"].exists()
    place.run("pull()", HF_HUB_CACHE=str(folders["theirs"]))
    assert lock_file(folders["theirs"]).is_file()
    assert not place.cache.exists()


def test_what_is_no_repositorys_name_is_an_error_before_anything_is_asked(place: Place) -> None:
    (pulled,) = place.run("block()\npull('no//name')")
    assert pulled.error == "'no//name' is not a repository's name: expected owner/name"
    assert pulled.touched == 0


def test_a_file_whose_hash_nobody_states_is_fetched_again_where_it_is_damaged_and_only_a_whole_one_is_locked(
    place: Place,
) -> None:
    content = b'{"architecture": "b0"}'
    place.hub.put(REPO, {"config.json": content})
    script = place.hub.fault("GET", "config.json", Flip(offset=0), times=None)
    (damaged,) = place.run("pull(filename='config.json')")
    assert script.hits == 2
    assert damaged.error is not None
    assert "downloaded twice, both times damaged: " in damaged.error
    assert not lock_file(place.cache, filename="config.json").exists()
    place.hub.faults.clear()
    place.hub.fault("GET", "config.json", Flip(offset=0), times=1)
    (whole,) = place.run("pull(filename='config.json')")
    assert whole.loaded == sha256(content)
    assert json.loads(lock_file(place.cache, filename="config.json").read_text())["sha256"] == sha256(content)


def test_a_cached_file_is_found_without_importing_the_client(place: Place) -> None:
    place.hub.put(REPO, {FILE: WEIGHTS})
    place.run("pull()")
    (warm,) = place.run(
        "client = {'huggingface_hub', 'httpx', 'httpx2', 'requests'}\n"
        "for name in [name for name in sys.modules if name.split('.')[0] in client]:\n"
        "    del sys.modules[name]\n"
        "pull()\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & (client | {'torch', 'timm'}), loaded\n"
    )
    assert warm.loaded == GOOD


NAMES = [
    "a",
    "a/b",
    "A_b/c.d-e",
    "a/b/c",
    "",
    "/b",
    "a/",
    "-a/b",
    "a/b.",
    "a--b/c",
    "a/b..c",
    "a/b.git",
    "a b/c",
]


@pytest.mark.parametrize("name", [*NAMES, "a/" + "b" * 96, "a/" + "b" * 97])
def test_a_repositorys_name_is_one_where_the_client_says_so(name: str) -> None:
    def is_name(check: Callable[[], object]) -> bool:
        try:
            check()
        except (HFValidationError, HubError):
            return False
        return True

    ours = is_name(lambda: RemoteFile(repository=name, filename=FILE))
    assert ours == is_name(lambda: validate_repo_id(name))


def test_a_repositorys_name_is_ascii() -> None:
    # The client before 1.0 lets it pass, and the Hub has no such name.
    with pytest.raises(HubError, match="ä/b"):
        RemoteFile(repository="ä/b", filename=FILE)
