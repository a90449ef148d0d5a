"""The ledger against the Hub and against the cache, its missing pins, and copies for machines without a network."""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from effnet_zoo.checkpoints.cache import Pin
from effnet_zoo.transfer.verification import Verdict, write_pins
from effnet_zoo.zoo import catalogue, ledger
from effnet_zoo.zoo.ledger import Checkpoint
from tests import loopback, shell
from tests.loopback import Flip, Status
from tests.shell import TOKEN, Shell

HUB = [checkpoint for _, checkpoint in catalogue.checkpoints() if checkpoint.hub_id]
B0, V2 = catalogue.find("effnet_zoo_b0")[1], catalogue.find("effnet_zoo_v2_s")[1]
SHIPPED = "effnet_zoo_lite0.pypi_in1k"


def weights(checkpoint: Checkpoint) -> bytes:
    """What this Hub has for a checkpoint: a file of one tensor, as nothing here loads it."""
    return save({checkpoint.name: torch.zeros(1)})


def sha256(checkpoint: Checkpoint) -> str:
    return hashlib.sha256(weights(checkpoint)).hexdigest()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with loopback.serve(token=TOKEN) as hub, shell.start(hub, tmp_path_factory.mktemp("home")) as run:
        yield run


@pytest.fixture
def run(shared: Shell) -> Shell:
    """A shell to a Hub with every repository of the ledger, of one commit each and without faults."""
    hub = shared.hub
    hub.repos.clear()
    hub.faults.clear()
    for checkpoint in HUB:
        hub.put(str(checkpoint.hub_id), {"model.safetensors": weights(checkpoint), "config.json": b"{}"})
    hub.clear()
    return shared


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A copy of the ledger."""
    shutil.copytree(ledger.FOLDER, tmp_path / "ledger")
    return tmp_path / "ledger"


def reading(book: Path) -> str:
    """Code that makes a command read a copy of the ledger."""
    return f"""
from pathlib import Path
from effnet_zoo.zoo import catalogue, ledger
ledger.FOLDER = Path({str(book)!r})
ledger.load.cache_clear()
catalogue.models.cache_clear()
"""


def declare(book: Path, name: str, **fields: str) -> None:
    """Write fields into an entry of a copy of the ledger, and see to it that it has no other pins."""
    for path in book.glob("*.toml"):
        before, header, entry = path.read_text().partition(f"[{name}]\n")
        lines, blank, rest = entry.partition("\n\n")
        kept = [line for line in lines.splitlines() if not line.startswith(("revision", "sha256"))]
        kept += [f'{key} = "{value}"' for key, value in fields.items()]
        if header:
            path.write_text(before + header + "\n".join(kept) + blank + rest)


def entries(book: Path) -> dict[str, Checkpoint]:
    """What a copy of the ledger declares now."""
    parts = [ledger.parse(path.read_text(), path.name) for path in sorted(book.glob("*.toml"))]
    return {entry.name: entry for part in parts for tags in part.values() for entry in tags.values()}


def states(out: str) -> dict[str, str]:
    return {row["name"]: row["state"] for row in json.loads(out)}


def test_the_whole_ledger_is_pinned_from_the_hubs_metadata_alone(run: Shell, book: Path) -> None:
    for checkpoint in HUB:
        declare(book, checkpoint.name)
    texts = {path: path.read_text().splitlines() for path in book.glob("*.toml")}
    found = states(run("verify", "--all", "--remote", "--json", prelude=reading(book)).answer())
    assert found == {checkpoint.name: "new" for checkpoint in HUB} | {SHIPPED: "ok"}
    assert {path: path.read_text().splitlines() for path in texts} == texts, "it was not asked to write"

    out = run("verify", "--all", "--remote", "--write-pins", prelude=reading(book)).answer()
    assert f"pinned {len(HUB)} in {book}" in out
    for path, before in texts.items():
        after = path.read_text().splitlines()
        assert [line for line in after if not line.startswith("revision = ")] != after
        added = ("revision = ", "sha256 = ")
        assert [line for line in after if not line.startswith(added)] == [
            line for line in before if not line.startswith(added)
        ]
    pinned = entries(book)
    for checkpoint in HUB:
        commit = run.hub.repos[str(checkpoint.hub_id)].find("main")
        assert (pinned[checkpoint.name].revision, pinned[checkpoint.name].sha256) == (commit, sha256(checkpoint))

    contents = {path: path.read_bytes() for path in texts}
    out = run("verify", "--all", "--remote", "--write-pins", "--json", prelude=reading(book)).answer()
    assert set(states(out).values()) == {"ok"}
    assert not [row for row in json.loads(out) if row["pinned_now"]]
    assert {path: path.read_bytes() for path in texts} == contents
    assert len(run.hub.requests) == 3 * len(HUB)
    assert {(request.method, request.server) for request in run.hub.requests} == {("GET", "hub")}
    assert all(request.path.startswith("/api/models/") for request in run.hub.requests), "nothing is downloaded"


@pytest.mark.parametrize("pins", ["sha256", "both"])
def test_another_file_on_the_hub_is_said_with_both_hashes_and_never_pinned(run: Shell, book: Path, pins: str) -> None:
    repo = str(B0.hub_id)
    commit = run.hub.put(repo, {"model.safetensors": b"swapped"})
    declare(book, B0.name, sha256=sha256(B0), **({"revision": commit} if pins == "both" else {}))
    declare(book, V2.name)
    texts = {path: path.read_text() for path in book.glob("*.toml")}
    result = run("verify", B0.name, V2.name, "--remote", "--write-pins", prelude=reading(book))
    assert result.code == 1
    row = next(line for line in result.out.splitlines() if line.startswith(B0.name))
    got = hashlib.sha256(b"swapped").hexdigest()
    assert row.split()[1] == "wrong"
    assert f"{repo}@{commit}: expected sha256 {sha256(B0)}, got {got}" in row
    assert "1 wrong (another file); 1 new" in result.out
    assert entries(book)[B0.name].sha256 == sha256(B0)
    assert entries(book)[V2.name].sha256 == sha256(V2), "the others are pinned all the same"
    assert sum(path.read_text() != text for path, text in texts.items()) == 1


def test_what_the_hub_does_not_tell_is_a_failure_and_does_not_stop_the_rest(run: Shell, book: Path) -> None:
    for checkpoint in (B0, V2):
        declare(book, checkpoint.name)
    gone, down, bare = (catalogue.find(f"effnet_zoo_b{number}")[1] for number in (1, 2, 3))
    del run.hub.repos[str(gone.hub_id)]
    lost = catalogue.find("effnet_zoo_b4")[1]
    declare(book, lost.name, revision="0" * 40)
    down_now = run.hub.fault("GET", f"{down.hub_id}\\?", Status(503), times=None)
    run.hub.put(str(bare.hub_id), {}, delete=["model.safetensors"])
    names = [checkpoint.name for checkpoint in (gone, down, bare, lost, B0)]
    result = run("verify", *names, "--remote", prelude=reading(book))
    assert (result.code, result.err) == (1, "")
    assert down_now.hits > 1
    rows = {line.split()[0]: line for line in result.out.splitlines() if line}
    assert "failed" in rows[gone.name]
    assert "no such repository" in rows[gone.name]
    assert f"has no such revision: {'0' * 40}" in rows[lost.name]
    assert "HTTP 503" in rows[down.name]
    assert "has no model.safetensors" in rows[bare.name]
    assert rows[B0.name].split()[1] == "new"


def test_the_cache_is_verified_and_pinned_without_any_request(run: Shell, book: Path, tmp_path: Path) -> None:
    for checkpoint in (B0, V2):
        declare(book, checkpoint.name)
    home = {"prelude": reading(book), "EFFNET_ZOO_HOME": str(tmp_path / "home")}
    path = Path(json.loads(run("pull", B0.name, "--json", **home).answer())[0]["path"])
    commit = str(run.hub.repos[str(B0.hub_id)].find("main"))
    assert path.read_bytes() == weights(B0)
    run.hub.clear()

    out = run("verify", B0.name, V2.name, SHIPPED, "--json", **home).answer()
    assert states(out) == {B0.name: "ok", V2.name: "absent", SHIPPED: "ok"}
    assert "pinned 1 in" in run("verify", B0.name, V2.name, "--write-pins", **home).answer()
    assert (entries(book)[B0.name].revision, entries(book)[B0.name].sha256) == (commit, sha256(B0))
    assert entries(book)[V2.name].sha256 is None

    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.resolve().write_bytes(content)
    result = run("verify", B0.name, **home)
    assert (result.code, result.err) == (1, "")
    assert f"expected sha256 {sha256(B0)}, got {hashlib.sha256(content).hexdigest()}" in result.out
    assert path.exists(), "it is only looked at"
    assert run.hub.requests == []


def test_a_ledger_that_changed_meanwhile_is_not_written_to(run: Shell, book: Path) -> None:
    declare(book, B0.name)
    path = next(path for path in book.glob("*.toml") if f"[{B0.name}]" in path.read_text())
    before = path.read_text()
    moved = before.replace(f"[{B0.name}]\n", f"[{B0.name}] # mine\n")
    prelude = f"{reading(book)}catalogue.models()\nPath({str(path)!r}).write_text({moved!r})\n"
    complaint = run("verify", B0.name, "--remote", "--write-pins", prelude=prelude).complaint()
    assert f"no entry [{B0.name}] to pin" in complaint
    assert path.read_text() == moved


def test_names_or_all_have_to_be_given_and_exist(run: Shell) -> None:
    assert "expected the names of checkpoints, or --all" in run("verify").complaint()
    assert "expected the names of checkpoints, or --all" in run("verify", "--all", B0.name).complaint()
    assert "unknown model 'effnet_zoo_b99'" in run("verify", "effnet_zoo_b99").complaint()


def test_what_is_pulled_to_a_folder_is_a_mirror_for_machines_without_a_network(run: Shell, tmp_path: Path) -> None:
    stick = tmp_path / "stick"
    out = run("pull", B0.name, SHIPPED, "--to", stick, "--json", EFFNET_ZOO_HOME=str(tmp_path / "first")).answer()
    rows = {row["name"]: row for row in json.loads(out)}
    assert Path(rows[B0.name]["copy"]) == stick / str(B0.hub_id) / "model.safetensors"
    assert Path(rows[B0.name]["copy"]).read_bytes() == weights(B0)
    assert Path(rows[SHIPPED]["copy"]).read_bytes() == Path(rows[SHIPPED]["path"]).read_bytes()

    run.hub.clear()
    down = run.hub.fault(".*", ".", Status(503), times=None)
    alone = {"EFFNET_ZOO_HOME": str(tmp_path / "second"), "EFFNET_ZOO_MIRRORS": str(stick)}
    assert str(stick) in run("pull", B0.name, **alone).answer()
    assert down.hits == 0
    complaint = run("pull", V2.name, **alone).complaint()
    assert down.hits > 0, "the fault would have been met"
    assert f"{stick}/{V2.hub_id}/model.safetensors: there is no such file" in complaint


def test_a_pull_that_fails_says_one_line_and_leaves_no_copy(run: Shell, tmp_path: Path) -> None:
    home = {"EFFNET_ZOO_HOME": str(tmp_path / "home")}
    script = run.hub.fault("GET", "/model.safetensors", Flip(), server="cdn", times=None)
    assert "both times not the file" in run("pull", B0.name, "--to", tmp_path / "stick", **home).complaint()
    assert script.hits == 2
    assert not (tmp_path / "stick").exists()
    run.hub.faults.clear()
    for fault in (Status(503), loopback.Reset(after=5)):
        once = run.hub.fault("GET", "/model.safetensors", fault, server="cdn")
        run("pull", B0.name, EFFNET_ZOO_HOME=str(tmp_path / type(fault).__name__)).answer()
        assert once.hits == 1
    (tmp_path / "file").write_text("in the way")
    for place in ("file", "file/sub"):
        assert "file is a file: expected a folder" in run("pull", SHIPPED, "--to", tmp_path / place).complaint()


def test_a_tag_may_have_a_dash(tmp_path: Path) -> None:
    (tmp_path / "book.toml").write_text('[effnet_zoo_b0.my-tag]\nhub_id = "a/b"\n')
    mine = dataclasses.replace(B0, tag="my-tag", revision=None, sha256=None)
    pin = Pin(revision="1" * 40, sha256="2" * 64)
    verdict = Verdict(checkpoint=mine, state="new", detail="", pin=pin)
    assert write_pins([verdict], tmp_path) == [mine.name]
    assert f'sha256 = "{pin.sha256}"' in (tmp_path / "book.toml").read_text()
