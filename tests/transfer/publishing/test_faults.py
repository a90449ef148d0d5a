"""What goes wrong between here and the Hub is overcome or told in one line, and costs nothing that was there."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import loopback, shell
from tests.loopback import Before, Flip, LostAnswer, Reset, Status
from tests.shell import TOKEN, Shell
from tests.transfer.publishing.case import OURS, THEIRS


@dataclass(frozen=True)
class Fault:
    """A fault of the Hub's, and what a push is to make of it.

    Attributes:
        request: Method and path that meet it.
        what: What happens.
        times: How often; None for ever.
        complaint: What the push says; None if it succeeds.
        commits: How many commits the branch has more.
        again: Whether a push again, without the fault, has still to commit.
    """

    request: tuple[str, str]
    what: tuple[loopback.Fault, ...]
    times: int | None
    complaint: str | None
    commits: int = 0
    again: bool = True


INFO, PREUPLOAD, COMMIT = ("GET", r"/api/models/tester/[\w-]+\?"), ("POST", "/preupload/"), ("POST", "/commit/")
BATCH, UPLOAD, DOWNLOAD = ("POST", "/objects/batch"), ("PUT", "."), ("GET", "/model.safetensors")
CARD, HASH = ("POST", "/api/validate-yaml"), ("GET", "/revision/[0-9a-f]{40}")
LFS = {"sha256": "0", "size": 1, "pointerSize": 1}
ANOTHER = {"id": "a/b", "siblings": [{"rfilename": "model.safetensors", "blobId": "0", "size": 1, "lfs": LFS}]}
CHECK = "is committed, but the check afterwards fails: .*"

FAULTS = {
    "401": Fault(INFO, (Status(401),), None, r"token is missing or not valid \(HTTP 401\): log in"),
    "401 at the commit": Fault(COMMIT, (Status(401),), None, r"HTTP 401"),
    "403": Fault(COMMIT, (Status(403),), None, r"access denied \(HTTP 403\)"),
    "403 at the upload": Fault(UPLOAD, (Status(403),), None, r"HTTP 403"),
    "404": Fault(PREUPLOAD, (Status(404, "RepoNotFound"),), None, "no such repository, or a private one"),
    "400": Fault(COMMIT, (Status(400, body=b'{"error": "No such\\n licence"}'),), None, "it says: No such licence$"),
    "429 once": Fault(COMMIT, (Status(429, retry_after=0),), 1, None, 1, False),
    "429 for ever": Fault(COMMIT, (Status(429, retry_after=0),), None, r"too many requests \(HTTP 429\)"),
    "500 once": Fault(COMMIT, (Status(500),), 1, None, 1, False),
    "500 for ever": Fault(COMMIT, (Status(500),), None, r"the server fails \(HTTP 500\): try again later"),
    "500 once, first": Fault(INFO, (Status(500),), 1, None, 1, False),
    "500 once before the upload": Fault(PREUPLOAD, (Status(500),), 1, None, 1, False),
    "500 for ever before the upload": Fault(BATCH, (Status(500),), None, r"HTTP 500"),
    "503 once in the upload": Fault(UPLOAD, (Status(503),), 1, None, 1, False),
    "503 for ever in the upload": Fault(UPLOAD, (Status(503),), None, r"HTTP 503"),
    "upload reset once": Fault(UPLOAD, (Reset(),), 1, None, 1, False),
    "upload reset for ever": Fault(UPLOAD, (Reset(),), None, "check the network"),
    "upload's answer lost": Fault(UPLOAD, (LostAnswer(),), 1, None, 1, False),
    "commit reset once": Fault(COMMIT, (Reset(),), 1, None, 1, False),
    "commit reset for ever": Fault(COMMIT, (Reset(),), None, "check the network"),
    "commit's answer lost": Fault(COMMIT, (LostAnswer(),), 1, None, 1, False),
    "commit's answer garbled": Fault(COMMIT, (Status(200, body=b"<html>"),), None, "not a Hub's answer"),
    "commit's answer cut": Fault(COMMIT, (loopback.Truncate(missing=20),), 1, None, 1, False),
    "card refused": Fault(
        CARD,
        (Status(400, body=b'{"errors": [{"message": "license must be one of ..."}], "warnings": []}'),),
        None,
        r"README.md.*license must be one of",
    ),
    "another file afterwards": Fault(DOWNLOAD, (Flip(-1),), None, CHECK + "expected sha256 .{64}, got .{64}", 1, False),
    "a short file afterwards": Fault(DOWNLOAD, (loopback.Truncate(),), None, CHECK + "Consistency", 1, False),
    "download reset once": Fault(DOWNLOAD, (Reset(after=1000),), 1, None, 1, False),
    "another hash afterwards": Fault(
        HASH,
        (Status(200, body=json.dumps(ANOTHER).encode()),),
        None,
        CHECK + "got 0; push again",
        1,
        False,
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_overcome_or_told_in_one_line_and_nothing_is_lost(run: Shell, folder: Path, name: str) -> None:
    fault, hub = FAULTS[name], run.hub
    repo = "tester/" + name.replace(" ", "-").replace(",", "").replace("'", "")
    before = hub.put(repo, THEIRS)
    hub.clear()
    script = hub.fault(*fault.request, *fault.what, times=fault.times)
    result = run("push", folder, repo)
    hub.faults.remove(script)
    assert script.hits == (fault.times or max(1, script.hits))
    if fault.complaint is None:
        assert result.answer()
    else:
        assert re.search(fault.complaint, result.complaint()), result.complaint()
    assert len(hub.history(repo)) == 1 + fault.commits
    assert hub.files(repo, before) == THEIRS
    if not fault.commits:
        assert hub.files(repo) == THEIRS
    if fault.request == CARD:
        assert not [request for request in hub.requests if request.method == "PUT"], "nothing was uploaded in vain"
    again = run("push", folder, repo).answer()
    assert ("no commit" in again) == (not fault.again)
    assert set(hub.files(repo)) == OURS | {"a.txt"}
    assert len(hub.history(repo)) == 2


def test_somebody_elses_commit_in_the_meantime_is_shown_and_not_overwritten(run: Shell, folder: Path) -> None:
    hub, repo = run.hub, "tester/conflict"
    hub.put(repo, THEIRS)
    other = {"README.md": b"Theirs now.\n", "pytorch_model.bin": b"newer"}
    script = hub.fault(*COMMIT, Before(lambda: hub.put(repo, other)))
    complaint = run("push", folder, repo).complaint()
    assert script.hits == 1
    assert complaint.startswith(f"{repo} was changed by somebody else while this was pushed (now at ")
    assert str(hub.repos[repo].find("main")) in complaint
    assert "README.md, pytorch_model.bin differs" in complaint
    assert hub.files(repo) == THEIRS | other
    run("push", folder, repo).answer()
    assert b"Theirs now.\n" in hub.files(repo)["README.md"]
    assert len(hub.history(repo)) == 3


def test_a_commit_whose_answer_is_lost_just_before_the_hub_goes_down_is_not_made_twice(
    run: Shell, folder: Path
) -> None:
    hub, repo = run.hub, "tester/lost-and-down"
    hub.put(repo, THEIRS)
    lost = hub.fault(*COMMIT, LostAnswer(), Before(lambda: hub.fault(*INFO, Status(503), times=None)))
    assert "HTTP 503" in run("push", folder, repo).complaint()
    assert lost.hits == 1
    hub.faults.clear()
    assert len(hub.history(repo)) == 2
    assert "no commit" in run("push", folder, repo).answer()


def test_a_pull_request_whose_answer_is_lost_is_asked_for_once_and_said_to_be_uncertain(
    run: Shell, folder: Path
) -> None:
    hub, repo = run.hub, "tester/lost-request"
    hub.put(repo, THEIRS)
    script = hub.fault(*COMMIT, LostAnswer(), times=None)
    complaint = run("push", folder, repo, "--create-pr").complaint()
    hub.faults.remove(script)
    assert script.hits == 1
    assert f"see {hub.url}/{repo}/discussions for whether the pull request was opened" in complaint
    assert hub.files(repo) == THEIRS
    hub.fault(*COMMIT, Status(403))
    assert run("push", folder, repo, "--create-pr").complaint().endswith("check what the token may do")


def test_a_push_that_is_killed_between_upload_and_commit_goes_on_from_there(folder: Path, tmp_path: Path) -> None:
    repo = "tester/killed"
    with loopback.serve(token=TOKEN) as hub:
        before = hub.put(repo, THEIRS)
        with shell.start(hub, tmp_path / "home") as run:

            def kill() -> None:
                run.process.kill()
                run.process.wait()

            script = hub.fault(*COMMIT, Before(kill), Reset())
            with pytest.raises(BrokenPipeError):
                run("push", folder, repo)
        assert script.hits == 1
        assert hub.repos[repo].find("main") == before
        assert len(hub.repos[repo].objects) == 2, "what is there already, and what was uploaded"
        hub.clear()
        with shell.start(hub, tmp_path / "home") as run:
            run("push", folder, repo).answer()
        assert "PUT" not in {request.method for request in hub.requests}
        assert set(hub.files(repo)) == OURS | {"a.txt"}
