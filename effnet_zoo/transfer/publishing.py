"""Weights to a Hub repository or a folder: one commit, verified before and after, and nothing lost on the way."""

import dataclasses
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import timm
import torch
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import HFValidationError, HTTPError, RepositoryNotFoundError, RevisionNotFoundError

from effnet_zoo import atomic_io, registry
from effnet_zoo.checkpoints import config_json, locate
from effnet_zoo.checkpoints.bundle import Bundle, of_model
from effnet_zoo.checkpoints.hub import explain, retrying
from effnet_zoo.errors import ConflictError, EffnetZooError, HubError, InputError, LedgerError, WeightsError
from effnet_zoo.network.model import EfficientNet
from effnet_zoo.network.options import check_path
from effnet_zoo.numerics import relative_error
from effnet_zoo.transfer import card
from effnet_zoo.transfer.card import Metric
from effnet_zoo.transfer.conversion import Images, with_overrides
from effnet_zoo.transfer.proof import random_image
from effnet_zoo.transfer.writing import with_proof_noted
from effnet_zoo.zoo import ledger
from effnet_zoo.zoo.catalogue import Model
from effnet_zoo.zoo.class_names import checked_labels

Answer = TypeVar("Answer")

STALE = re.compile(r".+\.(safetensors|bin|pth|pt|ckpt|tar|pkl|h5|keras|msgpack|index\.json)")
"""Weight files of earlier pushes, which some loader would take instead of the new ones; git keeps them."""

STALE_HERE = re.compile(r"(pytorch_|tf_|flax_|open_clip_(pytorch_)?)?model([-.].*)?" + STALE.pattern.removeprefix(".+"))
"""The same in a folder, where a file once removed is lost: only those that a loader looks for by their name."""

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
    what: EfficientNet | Bundle,
    folder: str | Path,
    *,
    license: str | None = None,  # noqa: A002  # what the Hub calls it
    classes: Sequence[str] | None = None,
    images: Images | None = None,
    metrics: Sequence[Metric] = (),
    dry_run: bool = False,
) -> Push:
    """Write weights, ``config.json`` and card to a folder that timm loads with ``local-dir:``.

    What the folder holds besides stays, but for weight files of earlier pushes; each file is replaced whole. Nothing is
    removed from the folder that the weights come from.

    Args:
        what: See `push`.
        folder: Where to.
        license: See `push`.
        classes: See `push`.
        images: See `push`.
        metrics: See `push`.
        dry_run: Only say what would happen.

    Raises:
        ArgumentError: If there is no licence.
        WeightsError: If nobody said how images are prepared, or timm computes something else.
        InputError: If `folder` is a file, or cannot be written to.
    """
    check_path("folder", folder)
    folder = Path(folder)
    with atomic_io.file_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder}: expected a folder, but this is a file")
    if not dry_run:
        atomic_io.check_destination(folder)
    package = _package(what, license, classes, images)
    with atomic_io.file_errors(folder):
        return _save(package, folder, metrics, dry_run=dry_run)


def _save(package: Bundle, folder: Path, metrics: Sequence[Metric], *, dry_run: bool) -> Push:
    there = {path.name: path for path in folder.glob("*") if path.is_file()}
    readme = there.get(card.FILENAME)
    existing = card.decode(atomic_io.read_bytes(readme), str(readme)) if readme else None
    address = f"local-dir:{folder if folder.name.strip('.') else folder.resolve()}"
    with _prepared(package, address, metrics, existing) as prepared:
        hashes = {name: atomic_io.sha256(path) if (prepared / name).exists() else "" for name, path in there.items()}
        is_source = Path(package.source).resolve() in (folder.resolve(), *(path.resolve() for path in there.values()))
        changes = _changes(prepared, hashes, None if is_source else STALE_HERE)
        if not dry_run:
            with ExitStack() as drafts:  # all are there before the first takes its place
                for change in changes:
                    if change.what in ("add", "update"):
                        draft = drafts.enter_context(atomic_io.written_whole(folder / change.path))
                        shutil.copyfile(prepared / change.path, draft)
            for change in changes:
                if change.what == "delete":
                    there[change.path].unlink()
        return Push(
            repo_id=str(folder),
            changes=changes,
            readme=(prepared / card.FILENAME).read_text(encoding="utf-8"),
            sha256=atomic_io.sha256(prepared / locate.FILENAME),
        )


def push(
    what: EfficientNet | Bundle,
    repo_id: str,
    *,
    license: str | None = None,  # noqa: A002
    classes: Sequence[str] | None = None,
    images: Images | None = None,
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
        license: Of the weights, as an SPDX identifier in lower case; required unless it is known. What came with a
            checkpoint, its licence, origin, tag and description, is known as long as its weights are unchanged.
        classes: Class names in the order of the logits; by default those that came with the weights.
        images: How images are prepared, where that did not come with the weights.
        metrics: Figures for the card.
        private: Whether a repository that is created is private.
        revision: The branch, created if there is none; by default the main one.
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
    package = _package(what, license, classes, images)
    remote = _Remote(HfApi(token=token), repo_id, revision)
    before = remote.state()
    existing = remote.read(card.FILENAME, before) if card.FILENAME in before.files else None
    with _prepared(package, f"hf-hub:{repo_id}", metrics, existing) as folder:
        done = Push(
            repo_id=repo_id,
            changes=_changes(folder, before.files, STALE),
            readme=(folder / card.FILENAME).read_text(encoding="utf-8"),
            sha256=atomic_io.sha256(folder / locate.FILENAME),
        )
        if dry_run:
            return done
        request = None
        if before.missing:
            remote.create(private=private)
            before = remote.state()
        if done.changed:
            message = message or f"Upload {package.variant} with effnet-zoo"
            commit, request = remote.commit(folder, done.changes, before, message, create_pr=create_pr)
        else:
            commit = str(before.commit)
        try:
            _verify(remote, commit, done.sha256, package)
        except WeightsError as error:
            raise HubError(
                f"{repo_id}@{commit} is committed, but the check afterwards fails: {error}; push again to check again"
            ) from error
    return dataclasses.replace(
        done, commit=commit, pull_request=request, ledger=ledger_entry(package, repo_id, commit, done.sha256)
    )


def _package(
    what: EfficientNet | Bundle, licence: str | None, classes: Sequence[str] | None, images: Images | None
) -> Bundle:
    """What is to be published, refused now if something is missing."""
    package = what if isinstance(what, Bundle) else of_model(what)
    labels = None if classes is None else checked_labels(classes, "classes")
    package = with_overrides(package, images, labels=labels, licence=licence)
    card.licence_of(package)
    return package


@contextmanager
def _prepared(package: Bundle, address: str, metrics: Sequence[Metric], existing: str | None) -> Iterator[Path]:
    """A folder with the three files, which timm alone has loaded and computed the same logits with."""
    package = with_proof_noted(package)
    text = card.write(package, address, metrics, existing)
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as name:
        folder = Path(name)
        package.write_weights(folder)
        (folder / config_json.FILENAME).write_text(package.config_json(), encoding="utf-8")
        (folder / card.FILENAME).write_text(text, encoding="utf-8")
        _compare(package, folder, timm.create_model, "timm")
        yield folder


def _compare(package: Bundle, folder: Path, create: Any, who: str) -> None:
    loaded = create(f"local-dir:{folder}", pretrained=True).eval().double()
    image = random_image(package.options["in_chans"])
    with torch.inference_mode():
        error = relative_error(loaded(image), package.model().double()(image))
    if not error <= TOLERANCE:
        raise WeightsError(f"{who} computes other logits from what was to be published (relative {error:.1e})")


def _changes(folder: Path, there: Mapping[str, str], stale: re.Pattern[str] | None) -> tuple[Change, ...]:
    """What becomes of each file, against the names there are with their SHA-256, or git's SHA-1 of small ones."""
    changes = []
    for path in sorted(folder.iterdir()):
        name, size = path.name, path.stat().st_size
        if name not in there:
            changes.append(Change(path=name, what="add", size=size))
        elif there[name] in (atomic_io.sha256(path), _git_oid(path)):
            changes.append(Change(path=name, what="keep", size=size))
        else:
            changes.append(Change(path=name, what="update", size=size))
    new = {change.path for change in changes}
    gone = [name for name in sorted(there) if name not in new and "/" not in name and stale and stale.fullmatch(name)]
    return (*changes, *(Change(path=name, what="delete", size=0) for name in gone))


def _git_oid(path: Path) -> str:
    """The name that git, and so the Hub, gives to a small file's content; a large one's is compared by SHA-256."""
    content = path.read_bytes() if path.stat().st_size < 1 << 24 else b""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """A branch: its commit and its files with their hashes.

    If it is missing, they are those of the main branch, which it will start from, or none without a repository.
    """

    commit: str | None
    files: Mapping[str, str]
    missing: bool = False


class _Remote:
    """A repository's branch; whatever goes wrong with it is a `HubError`."""

    def __init__(self, api: HfApi, repo_id: str, revision: str | None) -> None:
        self.api, self.repo_id, self.revision = api, repo_id, revision

    def state(self) -> _State:
        return self._ask(lambda: retrying(self._state))

    def _state(self) -> _State:
        try:
            return _State(**self._listing(self.revision))
        except RepositoryNotFoundError:
            return _State(commit=None, files={}, missing=True)
        except RevisionNotFoundError:
            return _State(**self._listing(None), missing=True)

    def _listing(self, revision: str | None) -> dict[str, Any]:
        info = self.api.model_info(self.repo_id, revision=revision, files_metadata=True, timeout=30)
        return {"commit": info.sha, "files": {file.rfilename: _hash_of(file) for file in info.siblings or []}}

    def read(self, name: str, state: _State) -> str:
        with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as folder:
            return card.decode(
                atomic_io.read_bytes(self.pull(name, str(state.commit), folder)), f"{self.repo_id}/{name}"
            )

    def pull(self, name: str, commit: str, folder: str | Path) -> Path:
        def download() -> Path:
            return Path(self.api.hf_hub_download(self.repo_id, name, revision=commit, cache_dir=folder))

        return self._ask(lambda: retrying(download))

    def hash_of(self, name: str, commit: str) -> str:
        (info,) = self._ask(lambda: retrying(lambda: self.api.get_paths_info(self.repo_id, [name], revision=commit)))
        return _hash_of(info)

    def create(self, *, private: bool) -> None:
        self._ask(lambda: retrying(lambda: self.api.create_repo(self.repo_id, private=private, exist_ok=True)))
        if (branch := self.revision) is not None:
            self._ask(lambda: retrying(lambda: self.api.create_branch(self.repo_id, branch=branch, exist_ok=True)))

    def commit(
        self, folder: Path, changes: Sequence[Change], before: _State, message: str, *, create_pr: bool
    ) -> tuple[str, str | None]:
        """The commit with the changes, and the pull request's address."""
        added = [change.path for change in changes if change.what in ("add", "update")]
        removals = [CommitOperationDelete(change.path) for change in changes if change.what == "delete"]

        def additions() -> list[CommitOperationAdd]:
            return [CommitOperationAdd(path, folder / path) for path in added]  # older clients take each only once

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
                # The answer may be what was lost or garbled, not the commit: look before anything is sent again.
                if not create_pr and (now := self._settled(folder, before, error)) is not None:
                    return now, None
                raise
            return info.oid, info.pr_url

        if not create_pr:
            return self._ask(lambda: retrying(lambda: attempt(additions())))
        request = additions()

        def upload() -> None:
            self.api.preupload_lfs_files(
                self.repo_id, request, revision=self.revision, create_pr=True, free_memory=False
            )

        self._ask(lambda: retrying(upload))
        try:  # once: it leaves no trace on the branch, so that two could be opened
            return self._ask(lambda: attempt(request))
        except HubError as error:
            if getattr(error.__cause__, "response", None) is not None:  # a refusal, which is certain
                raise
            where = f"{constants.ENDPOINT}/{self.repo_id}/discussions"
            raise HubError(f"{error}; see {where} for whether the pull request was opened") from error.__cause__

    def _settled(self, folder: Path, before: _State, error: Exception) -> str | None:
        """The commit, if the branch has all the changes in spite of an error; None if it is as it was before.

        Raises:
            ConflictError: If it is neither.
        """
        now = self._state()
        if now.commit == before.commit:
            return None
        if all(change.what == "keep" for change in _changes(folder, now.files, STALE)):
            return now.commit
        theirs = sorted(
            name for name in before.files.keys() | now.files.keys() if before.files.get(name) != now.files.get(name)
        )
        raise ConflictError(
            f"{self.repo_id} was changed by somebody else while this was pushed (now at {now.commit}; "
            f"{', '.join(theirs) or 'no file'} differs): nothing was overwritten; look at it and push again"
        ) from error

    def _ask(self, action: Callable[[], Answer]) -> Answer:
        try:
            return action()
        except EffnetZooError:
            raise
        except Exception as error:  # the client has many, its HTTP library's among them
            cause = error.__cause__ if isinstance(error, RuntimeError) else error  # of an upload
            reason = _reason(cause if isinstance(cause, Exception) else error)
            if "Bearer" in reason or isinstance(cause, UnicodeEncodeError):  # the header itself is quoted
                raise HubError(
                    f"{self.repo_id}: the token cannot be sent, it has characters that no token has: log in with "
                    "`hf auth login`, or set HF_TOKEN anew"
                ) from None
            raise HubError(f"{self.repo_id}: {reason}") from error


def _reason(error: Exception) -> str:
    """Why the Hub did not do what it was asked, in one line."""
    line = " ".join(str(error).split())
    if isinstance(error, json.JSONDecodeError) or not isinstance(error, HTTPError | OSError | ValueError):
        return f"{constants.ENDPOINT}: this is not a Hub's answer ({type(error).__name__}: {line}): check the address"
    if not isinstance(error, HTTPError | OSError | HFValidationError):
        return f"{constants.ENDPOINT} refuses it: {line}: correct it and push again"
    said = " ".join((getattr(error, "server_message", None) or "").split())
    return explain(error, constants.ENDPOINT) + (f"; it says: {said}" if said else "")


def _hash_of(file: Any) -> str:
    lfs = file.lfs
    if lfs is None:
        return str(file.blob_id)
    return str(lfs["sha256"] if isinstance(lfs, dict) else lfs.sha256)


def _verify(remote: _Remote, commit: str, sha256: str, package: Bundle) -> None:
    """The Hub's hash, and the checkpoint pulled again into an empty cache with its logits.

    Raises:
        HubError: If the Hub has something else.
        WeightsError: If the logits are others.
    """
    if (told := remote.hash_of(locate.FILENAME, commit)) != sha256:
        raise HubError(f"the Hub has another {locate.FILENAME}: expected sha256 {sha256}, got {told}")
    with tempfile.TemporaryDirectory(prefix="effnet-zoo-") as cache:
        pulled = remote.pull(locate.FILENAME, commit, cache)
        if (got := atomic_io.sha256(pulled)) != sha256:
            raise HubError(
                f"the Hub has {locate.FILENAME} right, but sends another: expected sha256 {sha256}, got {got}"
            )
        remote.pull(config_json.FILENAME, commit, cache)
        _compare(package, pulled.parent, registry.create_model, "effnet_zoo")


def ledger_entry(package: Bundle, repo_id: str, commit: str, sha256: str) -> str | None:
    """The entry for ``weights/*.toml``, ready to paste; None for weights that the ledger cannot describe.

    It has RGB classifiers that are a variant of the families with the variant's own numerics, and square images.
    """
    model, how = config_json.variant_of(package.arch), package.images
    if model is None or how is None or not _as_declared(package, model):
        return None
    tag = str(package.record.get("tag") or re.sub(r"\W", "_", repo_id.split("/")[-1]))
    told = str(package.record.get("description") or "not stated")
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
        "source": package.record.get("origin_url") or f"https://huggingface.co/{repo_id}",
        "training_data": data,
        "recipe": recipe or "not stated",
    }
    entry = "\n".join((f"[{model.name}.{tag}]", *(f"{key} = {_toml(value)}" for key, value in rows.items()), ""))
    try:
        ledger.parse(f"{entry}default = true\n", repo_id)
    except LedgerError:
        return None
    return entry


def _as_declared(package: Bundle, model: Model) -> bool:
    """Whether a ledger entry, which names only the variant, would build the same network for the same images."""
    options, images = package.options, package.images
    return (
        all(
            getattr(package.arch, numeric) == getattr(model.spec, numeric)
            for numeric in ("padding", "bn_eps", "activation")
        )
        and options["in_chans"] == 3
        and options.get("global_pool", "avg") == "avg"
        and not options.get("output_stride")
        and images is not None
        and images.size[0] == images.size[1]
    )


def _toml(value: Any) -> str:
    """TOML of a text, a number or a list of numbers, which JSON writes the same way."""
    return json.dumps(value, ensure_ascii=False)
