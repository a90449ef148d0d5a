"""Where things are published: a branch, a pull request, a private repository or a folder; and what is only shown."""

import shutil
from pathlib import Path

import pytest

import effnet_zoo
from effnet_zoo.errors import InputError
from effnet_zoo.transfer.card import BEGIN
from tests.loopback import Before, Status
from tests.shell import Shell
from tests.transfer.publishing.case import IMAGES, OURS, THEIRS, tiny


def test_a_second_identical_push_makes_no_commit(run: Shell, folder: Path) -> None:
    repo = "tester/twice"
    run("push", folder, repo, "--measured", "top1=91.2").answer()
    commits = len(run.hub.history(repo))
    run.hub.clear()
    assert f"{repo} has all of this already: no commit" in run("push", folder, repo, "--measured", "top1=91.2").answer()
    assert len(run.hub.history(repo)) == commits
    assert {request.method for request in run.hub.requests if request.server == "cdn"} == {"GET"}, "checked, not sent"


def test_a_dry_run_shows_every_file_and_the_card_and_changes_nothing(run: Shell, folder: Path, tmp_path: Path) -> None:
    hub, repo = run.hub, "tester/dry"
    before = hub.put(repo, THEIRS)
    for where in ([repo], ["tester/none"], ["--to", str(tmp_path / "none")]):
        hub.clear()
        out = run("push", folder, *where, "--dry-run").answer()
        assert {line.split()[1] for line in out.splitlines() if line.split()[:1] in (["add"], ["update"])} == OURS
        assert "license: mit" in out
        assert BEGIN in out
        assert "nothing was changed" in out
        assert {request.method for request in hub.requests} <= {"GET", "HEAD"}
    assert "delete  pytorch_model.bin" in run("push", folder, repo, "--dry-run").answer()
    assert hub.repos[repo].find("main") == before
    assert "tester/none" not in hub.repos
    assert list(tmp_path.iterdir()) == []


def test_a_private_repository_a_branch_and_a_pull_request(run: Shell, folder: Path) -> None:
    hub = run.hub
    run("push", folder, "tester/private", "--private").answer()
    assert hub.repos["tester/private"].private

    repo = "tester/branches"
    main = hub.put(repo, THEIRS)
    hub.put(repo, {"b.txt": b"b"}, revision="dev")
    run("push", folder, repo, "--revision", "dev").answer()
    assert set(hub.files(repo, "dev")) == OURS | {"a.txt", "b.txt"}
    out = run("push", folder, repo, "--create-pr").answer()
    assert f"pull request: {hub.url}/{repo}/discussions/1" in out
    assert set(hub.files(repo, "refs/pr/1")) == OURS | {"a.txt"}
    assert hub.repos[repo].find("main") == main

    for new in (repo, "tester/new-branch"):  # of a repository that is there, and of one that is not

        def start(new: str = new) -> None:
            hub.repos[new].refs["fresh"] = hub.repos[new].refs["main"]

        script = hub.fault("POST", f"/api/models/{new}/branch/fresh", Before(start), Status(200))
        run("push", folder, new, "--revision", "fresh").answer()
        assert script.hits == 1
        assert set(hub.files(new, "fresh")) >= OURS
        assert not set(hub.files(new)) & {"model.safetensors", "config.json"}


def test_a_folder_keeps_its_other_files_and_its_readme_and_loses_stale_weights(
    run: Shell, folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "out"
    (place / "sub").mkdir(parents=True)
    kept = {"best.ckpt": b"of the author's own", "notes.txt": b"notes", "sub/pytorch_model.bin": b"elsewhere"}
    stale = {"pytorch_model.bin", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "tf_model.h5"}
    for name, content in {**kept, **dict.fromkeys(stale, b"stale"), "README.md": b"Mine.\n"}.items():
        (place / name).write_bytes(content)
    out = run("push", folder, "--to", place).answer()
    assert {line.split()[1] for line in out.splitlines() if line.startswith("delete")} == stale
    assert {path.name for path in place.iterdir()} == OURS | {"best.ckpt", "notes.txt", "sub"}
    assert {name: (place / name).read_bytes() for name in kept} == kept
    assert "\nMine.\n\n" in (place / "README.md").read_text()
    written = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert "no commit" in run("push", folder, "--to", place).answer()
    assert {path: path.stat().st_mtime_ns for path in place.iterdir()} == written

    # The folder that weights come from may hold more than was read of it: nothing is removed there.
    shutil.copytree(folder, tmp_path / "same")
    (tmp_path / "same" / "pytorch_model.bin").write_bytes(b"with an optimiser's state")
    run("push", tmp_path / "same", "--to", tmp_path / "same", "--license", "apache-2.0").answer()
    assert (tmp_path / "same" / "pytorch_model.bin").exists()
    assert "license: apache-2.0" in (tmp_path / "same" / "README.md").read_text()

    (tmp_path / "file").write_text("in the way")
    for options in ([], ["--dry-run"]):
        assert "is a file: expected a folder" in run("push", folder, "--to", tmp_path / "file", *options).complaint()
    assert "is a file: expected a folder" in run("push", folder, "--to", tmp_path / "file/sub").complaint()
    with pytest.raises(InputError):
        effnet_zoo.save(tiny(), tmp_path / "file", license="mit", images=IMAGES)
