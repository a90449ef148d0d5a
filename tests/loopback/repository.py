"""Model repositories of the Hub on loopback: files, commits and refs."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

LFS_SUFFIXES = (".safetensors", ".bin", ".h5", ".pth")
LFS_SIZE = 10 * 2**20
INITIAL = {".gitattributes": "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)}


def is_lfs(path: str, size: int) -> bool:
    return path.endswith(LFS_SUFFIXES) or size > LFS_SIZE


@dataclass(frozen=True)
class File:
    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def git(self) -> bytes:
        """What git stores: the content, or the pointer to it in LFS."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        return pointer.encode() if self.lfs else self.content

    @cached_property
    def oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.git) + self.git).hexdigest()


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    message: str
    description: str
    added: tuple[str, ...]
    deleted: tuple[str, ...]


@dataclass
class Repo:
    """A model repository. A gated one grants its files to nobody, a private one is there only for a token's holder."""

    id: str
    private: bool = False
    gated: bool = False
    refs: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    trees: dict[str, dict[str, File]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # in LFS, by SHA-256, committed or only uploaded

    def find(self, revision: str) -> str | None:
        """The commit that a branch, a pull request's ref or a whole commit hash names."""
        return self.refs.get(revision) or (revision if revision in self.commits else None)

    def commit(
        self, changes: Mapping[str, File | None], ref: str, parent: str | None, message: str, description: str = ""
    ) -> str:
        """Move a ref to a new commit on top of `parent`, in which the files that are None are gone."""
        tree = dict(self.trees[parent]) if parent else {}
        for path, file in changes.items():
            if file is None:
                tree.pop(path, None)
            else:
                tree[path] = file
                if file.lfs:
                    self.objects[file.sha256] = file.content
        # The number of commits makes two alike on the same parent differ; nothing in it depends on the time.
        identity = [self.id, len(self.commits), parent, message, [(path, tree[path].oid) for path in sorted(tree)]]
        oid = hashlib.sha1(json.dumps(identity).encode()).hexdigest()
        added = tuple(sorted(path for path, file in changes.items() if file))
        deleted = tuple(sorted(path for path, file in changes.items() if not file))
        self.commits[oid] = Commit(oid, parent, message, description, added, deleted)
        self.trees[oid] = dict(sorted(tree.items()))
        self.refs[ref] = oid
        return oid
