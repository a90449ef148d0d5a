"""Weights to a Hub repository or a folder: one commit, verified before and after, and nothing lost on the way."""

import dataclasses
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationDelete,
    HfApi,
    constants,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)

from effnet_zoo import card, config, files, registry
from effnet_zoo.card import Metric
from effnet_zoo.convert.conversion import told, with_proof_noted
from effnet_zoo.convert.proof import SIZE
from effnet_zoo.errors import ConflictError, HubError, InputError, WeightsError
from effnet_zoo.fetch import explain, retrying
from effnet_zoo.ledger import Preprocessing
from effnet_zoo.model import EfficientNet
from effnet_zoo.package import WEIGHTS, Package, of_model
from effnet_zoo.selftest import relative_error

STALE = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".tar", ".pkl", ".h5", ".keras", ".index.json")
"""Weight files of earlier pushes, which some loader would take instead of the new ones."""

TOLERANCE = 1e-10
"""Between two loaders of the same file: both have its very numbers, and compute in float64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a push does to one file: ``add``, ``update``, ``delete`` or ``keep``."""

    path: str
    what: str
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """What a push did, or would do.

    Attributes:
        repo_id: The repository, or the folder.
        changes: File by file.
        readme: The card's text.
        sha256: Of ``model.safetensors``.
        commit: The commit that has it; None for a folder and a dry run.
        pull_request: Its address, if one was opened.
        ledger: The ledger's entry for it; None where there is none.
    """

    repo_id: str
    changes: tuple[Change, ...]
    readme: str
    sha256: str
    commit: str | None = None
    pull_request: str | None = None
    ledger: str | None = None

    @property
    def changed(self) -> bool:
        """Whether anything is new."""
        return any(change.what != "keep" for change in self.changes)


def save(
    what: EfficientNet | Package,
    folder: str | Path,
    *,
    license: str | None = None,  # noqa: A002  # what the Hub calls it
    classes: Sequence[str] | None = None,
    metrics: Sequence[Metric] = (),
    dry_run: bool = False,
) -> Push:
    """Write weights, ``config.json`` and card to a folder that timm loads with ``local-dir:``.

    What the folder holds besides stays, but for weight files of earlier pushes; each file is replaced whole.

    Args:
        what: See `push`.
        folder: Where to.
        license: See `push`.
        classes: See `push`.
        metrics: See `push`.
        dry_run: Only say what would happen.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If nobody said how images are prepared, or timm computes something else.
        InputError: If `folder` is a file.
    """
    folder = Path(folder)
    package = _package(what, license, classes)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: expected a folder, but this is a file")
    there = {path.name: files.sha256(path) for path in sorted(folder.glob("*")) if path.is_file()}
    readme = folder / card.FILENAME
    existing = readme.read_text(encoding="utf-8") if readme.is_file() else None
    with _prepared(package, f"local-dir:{folder}", metrics, existing) as prepared:
        changes = _changes(prepared, there)
        if not dry_run:
            folder.mkdir(parents=True, exist_ok=True)
            for change in changes:
                if change.what in ("add", "update"):
                    with files.written_whole(folder / change.path) as beside:
                        shutil.copyfile(prepared / change.path, beside)
            for change in changes:
                if change.what == "delete":
                    (folder / change.path).unlink()
        return Push(
            repo_id=str(folder),
            changes=changes,
            readme=(prepared / card.FILENAME).read_text(encoding="utf-8"),
            sha256=files.sha256(prepared / WEIGHTS),
        )


def push(
    what: EfficientNet | Package,
    repo_id: str,
    *,
    license: str | None = None,  # noqa: A002
    classes: Sequence[str] | None = None,
    metrics: Sequence[Metric] = (),
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
) -> Push:
    """Publish weights, ``config.json`` and card in one commit, and check that what the Hub has is what was meant.

    Nothing is committed if the repository has it all already, or if somebody else changed it meanwhile.

    Args:
        what: A model of this package's as it is now, or what `effnet_zoo.open_package` has read.
        repo_id: ``owner/name``; created if there is none.
        license: Of the weights, as an SPDX identifier in lower case; required unless it is known.
        classes: Class names in the order of the logits; by default those that came with the weights.
        metrics: Figures for the card.
        private: Whether a repository that is created is private.
        revision: The branch; by default the main one.
        create_pr: Open a pull request instead of changing the branch.
        message: Of the commit.
        dry_run: Only say what would happen.
        token: Instead of the one that ``hf auth login`` has stored.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If nobody said how images are prepared, or timm computes something else.
        HubError: If the Hub refuses or cannot be reached, or has something else afterwards.
        ConflictError: If somebody else changed the repository meanwhile.
    """
    package = _package(what, license, classes)
    remote = _Remote(HfApi(token=token), repo_id, revision)
    with remote.explained():
        before = remote.state()
        existing = remote.read(card.FILENAME, before) if card.FILENAME in before.files else None
    with _prepared(package, f"hf-hub:{repo_id}", metrics, existing) as folder, remote.explained():
        done = Push(
            repo_id=repo_id,
            changes=_changes(folder, before.files),
            readme=(folder / card.FILENAME).read_text(encoding="utf-8"),
            sha256=files.sha256(folder / WEIGHTS),
        )
        if dry_run:
            return done
        if done.changed:
            if before.commit is None:
                remote.create(private=private)
                before = remote.state()
            message = message or f"Upload {package.variant} with effnet-zoo"
            commit, request = remote.commit(folder, done.changes, before, message, create_pr=create_pr)
        else:
            commit, request = str(before.commit), None
        _verify(remote, commit, done.sha256, package)
    return dataclasses.replace(
        done, commit=commit, pull_request=request, ledger=ledger_entry(package, repo_id, commit, done.sha256)
    )


def _package(what: EfficientNet | Package, licence: str | None, classes: Sequence[str] | None) -> Package:
    """What is to be published, refused now if something is missing."""
    package = what if isinstance(what, Package) else of_model(what)
    package = told(package, labels=tuple(classes) if classes else None, licence=licence)
    card.licence_of(package)
    return package


@contextmanager
def _prepared(package: Package, address: str, metrics: Sequence[Metric], existing: str | None) -> Iterator[Path]:
    """A folder with the three files, which timm alone has loaded and computed the same logits with."""
    package = with_proof_noted(package)
    text = card.write(package, address, metrics, existing)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as name:
        folder = Path(name)
        package.write_weights(folder)
        (folder / config.FILENAME).write_text(package.config(), encoding="utf-8")
        (folder / card.FILENAME).write_text(text, encoding="utf-8")
        _compare(package, folder, timm.create_model, "timm")
        yield folder


def _compare(package: Package, folder: Path, create: Any, who: str) -> None:
    loaded = create(f"local-dir:{folder}", pretrained=True).eval().double()
    image = torch.randn((1, package.options["in_chans"], *SIZE), generator=torch.Generator().manual_seed(0)).double()
    with torch.inference_mode():
        error = relative_error(loaded(image), package.model().double()(image))
    if not error <= TOLERANCE:
        raise WeightsError(f"{who} computes other logits from what was to be published (relative {error:.1e})")


def _changes(folder: Path, there: Mapping[str, str]) -> tuple[Change, ...]:
    """What becomes of each file, against the names there are with their SHA-256, or git's SHA-1 of small ones."""
    changes = []
    for path in sorted(folder.iterdir()):
        name, size = path.name, path.stat().st_size
        if name not in there:
            changes.append(Change(path=name, what="add", size=size))
        elif there[name] in (files.sha256(path), _git_oid(path)):
            changes.append(Change(path=name, what="keep", size=size))
        else:
            changes.append(Change(path=name, what="update", size=size))
    new = {change.path for change in changes}
    stale = (name for name in sorted(there) if name not in new and "/" not in name and name.endswith(STALE))
    return (*changes, *(Change(path=name, what="delete", size=0) for name in stale))


def _git_oid(path: Path) -> str:
    """The name that git, and so the Hub, gives to a small file's content; a large one's is compared by SHA-256."""
    content = path.read_bytes() if path.stat().st_size < 1 << 24 else b""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """A branch: its commit, None if there is no repository, and its files with their hashes."""

    commit: str | None
    files: Mapping[str, str]


class _Remote:
    """A repository's branch."""

    def __init__(self, api: HfApi, repo_id: str, revision: str | None) -> None:
        self.api, self.repo_id, self.revision = api, repo_id, revision

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except (
            HfHubHTTPError,
            HTTPError,
            HFValidationError,
            EntryNotFoundError,
            ConnectionError,
            TimeoutError,
        ) as error:
            raise HubError(f"{self.repo_id}: {explain(error, constants.ENDPOINT)}") from error

    def state(self) -> _State:
        try:
            info = retrying(
                lambda: self.api.model_info(self.repo_id, revision=self.revision, files_metadata=True, timeout=30)
            )
        except RepositoryNotFoundError:
            return _State(commit=None, files={})
        siblings = info.siblings or []
        return _State(commit=info.sha, files={file.rfilename: _hash_of(file) for file in siblings})

    def read(self, name: str, state: _State) -> str:
        with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
            return Path(self.pull(name, str(state.commit), folder)).read_text(encoding="utf-8")

    def pull(self, name: str, commit: str, folder: str | Path) -> str:
        return retrying(lambda: self.api.hf_hub_download(self.repo_id, name, revision=commit, cache_dir=folder))

    def create(self, *, private: bool) -> None:
        retrying(lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True))

    def commit(
        self, folder: Path, changes: Sequence[Change], before: _State, message: str, *, create_pr: bool
    ) -> tuple[str, str | None]:
        """The commit with the changes, and the pull request's address."""
        additions = [
            CommitOperationAdd(change.path, folder / change.path)
            for change in changes
            if change.what in ("add", "update")
        ]
        removals = [CommitOperationDelete(change.path) for change in changes if change.what == "delete"]
        retrying(
            lambda: self.api.preupload_lfs_files(
                self.repo_id, additions, revision=self.revision, create_pr=create_pr, free_memory=False
            )
        )

        def attempt() -> tuple[str, str | None]:
            try:
                info = self.api.create_commit(
                    self.repo_id,
                    [*additions, *removals],
                    commit_message=message,
                    revision=self.revision,
                    parent_commit=before.commit,
                    create_pr=create_pr,
                )
            except (HTTPError, OSError) as error:
                # The answer may be what was lost, not the commit: look before anything is sent again.
                if not create_pr and (now := self._settled(folder, before, error)) is not None:
                    return now, None
                raise
            return info.oid, info.pr_url

        # A pull request leaves no trace on the branch: whether one was opened cannot be told, so it is asked for once.
        return attempt() if create_pr else retrying(attempt)

    def _settled(self, folder: Path, before: _State, error: Exception) -> str | None:
        """The commit, if the branch has all the changes in spite of an error; None if it is as it was before.

        Raises:
            ConflictError: If it is neither.
        """
        now = self.state()
        if now.commit == before.commit:
            return None
        if all(change.what == "keep" for change in _changes(folder, now.files)):
            return now.commit
        theirs = sorted(
            name for name in before.files.keys() | now.files.keys() if before.files.get(name) != now.files.get(name)
        )
        raise ConflictError(
            f"{self.repo_id} was changed by somebody else while this was pushed (now at {now.commit}; "
            f"{', '.join(theirs) or 'no file'} differs): nothing was overwritten; look at it and push again"
        ) from error


def _hash_of(file: Any) -> str:
    lfs = file.lfs
    if lfs is None:
        return str(file.blob_id)
    return str(lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256)


def _verify(remote: _Remote, commit: str, sha256: str, package: Package) -> None:
    """The Hub's hash, and the checkpoint pulled again into an empty cache with its logits.

    Raises:
        HubError: If the Hub has something else.
        WeightsError: If the logits are others.
    """
    (info,) = retrying(lambda: remote.api.get_paths_info(remote.repo_id, [WEIGHTS], revision=commit))
    if (told := _hash_of(info)) != sha256:
        raise HubError(f"{remote.repo_id}@{commit} has another {WEIGHTS}: expected sha256 {sha256}, got {told}")
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as cache:
        pulled = Path(remote.pull(WEIGHTS, commit, cache))
        if (got := files.sha256(pulled)) != sha256:
            raise HubError(f"{WEIGHTS} pulled from {remote.repo_id}@{commit}: expected sha256 {sha256}, got {got}")
        remote.pull(config.FILENAME, commit, cache)
        _compare(package, pulled.parent, registry.create_model, "effnet_zoo")


def ledger_entry(package: Package, repo_id: str, commit: str, sha256: str) -> str | None:
    """The entry for ``weights/*.toml``, ready to paste; None for a network that is no variant of the families."""
    model = config.variant_of(package.arch)
    if model is None or package.images is None:
        return None
    how: Preprocessing = package.images
    tag = str(package.record.get("tag") or repo_id.split("/")[-1].replace(".", "_"))
    source = package.record.get("origin_url") or f"{constants.ENDPOINT}/{repo_id}"
    told = str(package.record.get("description") or "not stated; not stated")
    data, _, recipe = told.partition("; ")
    rows: dict[str, Any] = {
        "hub_id": repo_id,
        "revision": commit,
        "sha256": sha256,
        "num_classes": package.num_classes,
        "train_size": how.size[0],
        "eval_size": how.size[0],
        "crop_pct": how.crop_pct,
        "crop_mode": how.crop_mode,
        "interpolation": how.interpolation,
        "mean": list(how.mean),
        "std": list(how.std),
        "license": card.licence_of(package),
        "source": source,
        "training_data": data,
        "recipe": recipe or "not stated",
    }
    return "\n".join((f"[{model.name}.{tag}]", *(f"{key} = {_toml(value)}" for key, value in rows.items()), ""))


def _toml(value: Any) -> str:
    """TOML of a text, a number or a list of numbers, which JSON writes the same way."""
    return json.dumps(value, ensure_ascii=False)
