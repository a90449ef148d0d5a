"""A branch of a repository on the Hub: the files that it has, and one commit to it that overwrites no other's."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils.sha import git_hash

from effnet_zoo import atomic_io
from effnet_zoo.checkpoints.hub import explain, retrying
from effnet_zoo.errors import ConflictError, EffnetZooError, HubError

_Answer = TypeVar("_Answer")

STALE = re.compile(r".+\.(safetensors|bin|pth|pt|ckpt|tar|pkl|h5|keras|msgpack|index\.json)")
"""Weight files of earlier pushes. A loader could take one instead of the new file. Git keeps what a commit deletes."""

SHA1_DIGITS = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of one file: ``add``, ``update``, ``delete`` or ``keep``; and the new one's bytes and SHA-256."""

    path: str
    what: str
    size: int = 0
    sha256: str = ""


def changes_between(folder: Path, hashes: Mapping[str, str], stale: re.Pattern[str] | None) -> tuple[Change, ...]:
    """Return what it takes to bring the files of a folder to a place, and to delete the stale files at its top.

    The hash of each file that the place has is a SHA-256. For small files, the Hub has git's SHA-1 instead.
    """
    changes = []
    for path in sorted(folder.iterdir()):
        there, sha256 = hashes.get(path.name), atomic_io.sha256(path)
        same = there == (git_hash(path.read_bytes()) if there and len(there) == SHA1_DIGITS else sha256)
        what = "keep" if same else "add" if there is None else "update"
        changes.append(Change(path=path.name, what=what, size=path.stat().st_size, sha256=sha256))
    new = {change.path for change in changes}
    gone = [name for name in sorted(hashes) if name not in new and "/" not in name and stale and stale.fullmatch(name)]
    return (*changes, *(Change(path=name, what="delete") for name in gone))


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchState:
    """A branch at one moment.

    Attributes:
        commit: The branch's last commit. None if there is no repository.
        hashes: The files, as `changes_between` takes them.
        missing: Whether the branch has yet to be created. The files are then those of the main branch.
    """

    commit: str | None
    hashes: Mapping[str, str]
    missing: bool = False


class Branch:
    """A branch of a repository; None is the main branch.

    Every method raises `HubError` if the Hub refuses, fails or cannot be reached. A fault that may pass is tried again.
    """

    def __init__(self, repo_id: str, revision: str | None, token: str | None = None) -> None:
        self.api, self.repo_id, self.revision = HfApi(token=token), repo_id, revision

    def state(self, commit: str | None = None) -> BranchState:
        """Return the branch as it is now, or as it was at a commit."""

        def state_now() -> BranchState:
            missing, revision = False, commit or self.revision
            try:
                info = self.api.model_info(self.repo_id, revision=revision, files_metadata=True, timeout=30)
            except RepositoryNotFoundError:
                return BranchState(commit=None, hashes={}, missing=True)
            except RevisionNotFoundError:
                info, missing = self.api.model_info(self.repo_id, files_metadata=True, timeout=30), True
            files = info.siblings or []
            hashes = {file.rfilename: str(file.lfs.sha256 if file.lfs else file.blob_id) for file in files}
            return BranchState(commit=info.sha, hashes=hashes, missing=missing)

        return self._ask(state_now)

    def download(self, name: str, commit: str, folder: str | Path) -> Path:
        """Download a file into an empty folder."""
        return Path(self._ask(lambda: self.api.hf_hub_download(self.repo_id, name, revision=commit, cache_dir=folder)))

    def create(self, *, private: bool) -> None:
        """Create the repository and the branch, if they do not exist."""
        self._ask(lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True))
        if (branch := self.revision) is not None:
            self._ask(lambda: self.api.create_branch(self.repo_id, branch=branch, exist_ok=True))

    def commit(
        self, folder: Path, changes: Sequence[Change], before: BranchState, message: str, *, create_pr: bool
    ) -> tuple[str, str | None]:
        """Make one commit, and return it with its pull request's address.

        Raise ConflictError if somebody has changed the branch since `before`.
        """
        added = [change.path for change in changes if change.what in ("add", "update")]
        removals = [CommitOperationDelete(change.path) for change in changes if change.what == "delete"]

        def additions() -> list[CommitOperationAdd]:
            return [CommitOperationAdd(path, folder / path) for path in added]  # old clients take each only once

        def attempt(additions: Sequence[CommitOperationAdd]) -> tuple[str, str | None]:
            try:
                info = self.api.create_commit(
                    self.repo_id,
                    [*additions, *removals],
                    commit_message=message,
                    revision=self.revision,
                    parent_commit=before.commit,
                    create_pr=create_pr,
                )
            except Exception as error:
                # Perhaps only the answer was lost, and the commit was made. Look before it is sent again.
                if not create_pr and (made := self._made(folder, before, error)) is not None:
                    return made, None
                raise
            return info.oid, info.pr_url

        if not create_pr:
            return self._ask(lambda: attempt(additions()))
        request = additions()
        upload = partial(self.api.preupload_lfs_files, self.repo_id, request, revision=self.revision)
        self._ask(lambda: upload(create_pr=True, free_memory=False))
        try:  # only once: a lost answer leaves no trace on the branch, so that a second attempt could open a second one
            with self._errors():
                return attempt(request)
        except HubError as error:
            if getattr(error.__cause__, "response", None) is not None:  # the Hub refused: it opened none
                raise
            where = f"{constants.ENDPOINT}/{self.repo_id}/discussions"
            raise HubError(f"{error}; see {where} for whether the pull request was opened") from error.__cause__

    def _made(self, folder: Path, before: BranchState, error: Exception) -> str | None:
        """Return the commit, if the branch has all the changes. Return None if the branch is as it was before."""
        now = self.state()
        if now.commit == before.commit:
            return None
        if all(change.what == "keep" for change in changes_between(folder, now.hashes, STALE)):
            return now.commit
        names = before.hashes.keys() | now.hashes.keys()
        theirs = sorted(name for name in names if before.hashes.get(name) != now.hashes.get(name))
        raise ConflictError(
            f"{self.repo_id} was changed by somebody else while this was pushed (now at {now.commit}; "
            f"{', '.join(theirs) or 'no file'} differs): nothing was overwritten; look at it and push again"
        ) from error

    def _ask(self, action: Callable[[], _Answer]) -> _Answer:
        with self._errors():
            return retrying(action)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except EffnetZooError:
            raise
        except Exception as error:  # the client's, or its HTTP library's
            cause = error.__cause__ if isinstance(error, RuntimeError) else error  # of an upload
            reason = _reason(cause if isinstance(cause, Exception) else error)
            if "Bearer" in reason or isinstance(cause, UnicodeEncodeError):  # the message quotes the header
                raise HubError(
                    f"{self.repo_id}: the token cannot be sent, it has characters that no token has: log in with "
                    "`hf auth login`, or set HF_TOKEN anew"
                ) from None
            raise HubError(f"{self.repo_id}: {reason}") from error


def _reason(error: Exception) -> str:
    """Return in one line why the Hub did not do what it was asked."""
    line = " ".join(str(error).split())
    if isinstance(error, json.JSONDecodeError) or not isinstance(error, HTTPError | OSError | ValueError):
        return f"{constants.ENDPOINT}: this is not a Hub's answer ({type(error).__name__}: {line}): check the address"
    if not isinstance(error, HTTPError | OSError | HFValidationError):
        return f"{constants.ENDPOINT} refuses it: {line}: correct it and push again"
    answer = " ".join((getattr(error, "server_message", None) or "").split())
    return explain(error, constants.ENDPOINT) + (f"; it says: {answer}" if answer else "")
