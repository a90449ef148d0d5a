"""The ``effnet-zoo`` command in an interpreter of its own, which lives on from one command to the next.

The client reads its environment at import, and importing torch and timm takes seconds: both happen once for all the
commands of a test module. What a command writes is caught at the file descriptors, as a terminal would get it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests import loopback

Run = Callable[..., tuple[int, str, str]]
"""What the fixture `run` gives: the command in the test's own process, with exit status, output and errors."""

COMMAND = [
    sys.executable,
    "-c",
    "import sys; sys.argv[0] = 'effnet-zoo'; from _effnet_zoo_command import main; main()",
]
"""Start the installed command's entry; its arguments follow."""

TOKEN = "hf_of_the_test"

CODE = """
import json, os, sys, tempfile, time
import effnet_zoo
from effnet_zoo.checkpoints import hub
from effnet_zoo.cli import main

hub.FIRST_PAUSE = 0.01
time.sleep = lambda seconds, sleep=time.sleep: sleep(min(seconds, 0.01))  # the client waits too, for whole seconds
answers = os.fdopen(os.dup(1), "w")

def call(arguments):
    sys.argv = ["effnet-zoo", *arguments]
    try:
        main()
        return 0
    except SystemExit as stopped:
        return stopped.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        return 1

for line in sys.stdin:
    order = json.loads(line)
    before = dict(os.environ)
    os.environ.update(order["environment"])
    if order["prelude"]:
        exec(order["prelude"])
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        code = call(order["arguments"])
        sys.stdout.flush()
        sys.stderr.flush()
        out.seek(0)
        err.seek(0)
        answer = {"code": code, "out": out.read(), "err": err.read()}
    os.environ.clear()
    os.environ.update(before)
    print(json.dumps(answer), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Result:
    """What a command did: exit status, standard output, standard error."""

    code: int
    out: str
    err: str

    def complaint(self) -> str:
        """The one line that a command says when it fails: no traceback, no warning, nothing of the client's."""
        assert self.code == 1, self
        (line,) = self.err.splitlines()
        assert line.startswith("effnet-zoo: ")
        return line.removeprefix("effnet-zoo: ")

    def answer(self) -> str:
        """What a command says when it succeeds, without a word on standard error."""
        assert (self.code, self.err) == (0, "")
        return self.out


@dataclass
class Shell:
    """A Hub, and an interpreter that talks to it and to nothing else."""

    hub: loopback.Hub
    process: "subprocess.Popen[str]"

    def __call__(self, *arguments: str | Path, prelude: str = "", **environment: str) -> Result:
        """Run a command; whatever becomes of it, it must not print the token."""
        order = {"arguments": [str(argument) for argument in arguments], "environment": environment, "prelude": prelude}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(json.dumps(order), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise BrokenPipeError("the interpreter is gone")
        result = Result(**json.loads(line))
        for token in (TOKEN, environment.get("HF_TOKEN")):
            assert not token or token not in result.out + result.err
        # S3 refuses a signed address with a token besides, and whoever runs it need not know the token.
        assert not [r for r in self.hub.requests if r.server == "cdn" and "authorization" in r.headers]
        return result


@contextmanager
def start(hub: loopback.Hub, home: Path) -> Iterator[Shell]:
    """A shell until the block ends."""
    environment = {**os.environ, "EFFNET_ZOO_HOME": "", "EFFNET_ZOO_MIRRORS": "", **hub.environment(home)}
    process = subprocess.Popen(
        [sys.executable, "-c", CODE], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield Shell(hub, process)
        finally:
            process.kill()
