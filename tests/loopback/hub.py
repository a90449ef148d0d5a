"""The state of the Hub on loopback: its repositories, the requests it had, and the faults that wait for requests."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.loopback.faults import Fault, Port, Request, Script
from tests.loopback.repository import Commit, File, Repo, is_lfs


@dataclass
class Hub:
    """What is served, what was asked for, and what is to go wrong.

    A token that is set is the only valid one, and needed for whoami, for every change and for private repositories.
    Without one, any token is as good as another and changes need none.
    """

    token: str | None = None
    user: str = "tester"
    url: str = ""
    cdn_url: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    faults: list[Script] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)
    stopping: threading.Event = field(default_factory=threading.Event)

    def environment(self, home: str | Path, **extra: str) -> dict[str, str]:
        """Variables that send a fresh interpreter's huggingface_hub here, with its cache under `home`."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(Path(home, "hub")),
            "HF_TOKEN": self.token or "",  # empty, it hides the one of whoever runs the tests
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "3",
            "HF_HUB_ETAG_TIMEOUT": "3",
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            **extra,
        }

    def create(self, repo_id: str, *, private: bool = False, gated: bool = False) -> Repo:
        """A new repository, without the first commit that one made by the client has."""
        with self.lock:
            self.repos[repo_id] = Repo(repo_id, private, gated)
            return self.repos[repo_id]

    def put(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        delete: Iterable[str] = (),
        revision: str = "main",
        message: str = "Upload files",
    ) -> str:
        """Commit files to a branch, in a repository and on a branch made for it if need be; gives the commit's hash."""
        changes: dict[str, File | None] = dict.fromkeys(delete)
        changes |= {path: File(content, is_lfs(path, len(content))) for path, content in files.items()}
        with self.lock:
            repo = self.repos.get(repo_id) or self.create(repo_id)
            parent = repo.refs.get(revision) or repo.refs.get("main")
            return repo.commit(changes, revision, parent, message)

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Every file's content, by path."""
        repo = self.repos[repo_id]
        commit = repo.find(revision)
        if commit is None:
            raise KeyError(f"{repo_id} has no revision {revision}")
        return {path: file.content for path, file in repo.trees[commit].items()}

    def history(self, repo_id: str, revision: str = "main") -> list[Commit]:
        """Every commit that leads to a revision, the first one first."""
        repo = self.repos[repo_id]
        commits: list[Commit] = []
        oid = repo.find(revision)
        while oid:
            commits.insert(0, repo.commits[oid])
            oid = repo.commits[oid].parent
        return commits

    def fault(
        self,
        method: str,
        pattern: str,
        *faults: Fault,
        times: int | None = 1,
        server: Port | None = None,
        when_range: bool = False,
    ) -> Script:
        """Let the next requests of a kind meet faults, all of those given at once.

        Where several calls match a request, the first that has not been used up is the one that it meets.

        Args:
            method: A regular expression for the whole method.
            pattern: A regular expression to be found in the path, which is quoted and has its query.
            *faults: What goes wrong.
            times: How many requests meet it; all if None.
            server: Which port's requests; both if None.
            when_range: Only requests for a part of a file.
        """
        script = Script(method, pattern, faults, times, server, when_range)
        with self.lock:
            self.faults.append(script)
        return script

    def clear(self) -> None:
        """Forget the requests so far."""
        self.requests.clear()

    def receive(self, request: Request) -> tuple[Fault, ...]:
        """Note a request, and say what it meets."""
        with self.lock:
            self.requests.append(request)
            for script in self.faults:
                if script.matches(request):
                    script.hits += 1
                    return script.faults
        return ()
