"""Run a function in a child process, because it would change something for all threads of this one.

torch.export and torch's compiler trace by torch.fx, which replaces methods of `nn.Module` while it works: models that
other threads run meanwhile fail, or are traced too.
"""

import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from effnet_zoo.errors import EngineError, first_line, quoted

LONGEST_CHILD = 3600.0
"""Seconds that a child may take. torch's compiler needs 40 for a B0, and a few minutes for the largest networks."""

_CHILD = """
import os, pickle, signal, sys, threading
sys.path[:], is_command = pickle.load(sys.stdin.buffer)
try:
    if is_command:  # then `import effnet_zoo` imports neither timm nor its public names
        import _effnet_zoo_command
    function, arguments = pickle.load(sys.stdin.buffer)
    def follow():
        while os.read(0, 1):  # it ends when the parent does
            pass
        os.killpg(0, signal.SIGKILL) if hasattr(os, "killpg") else os._exit(1)
    threading.Thread(target=follow, daemon=True).start()
    function(*arguments)
except Exception as error:
    sys.exit(f"\\n{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}")
"""


def run_in_child(
    function: Callable[..., None],
    *arguments: Any,
    seconds: float = LONGEST_CHILD,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Call a function of a module in a child process, and wait for its end. The function writes its result to a file.

    The child finds modules where this process does. It gets the variables of `environment` besides those of this
    process. Arguments are pickled; models and tensors go through a pipe, not through a file. The child, and what it
    started, ends with this process, and when waiting is interrupted. It never runs the main script again, so that
    scripts need no ``__main__`` guard.

    Raise EngineError if an argument cannot be pickled, the function raises, or it takes more than `seconds`.
    """
    with tempfile.TemporaryFile() as printed:
        child = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=printed,
            stderr=printed,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        assert child.stdin is not None
        expired = threading.Event()

        def end() -> None:
            if child.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL) if hasattr(os, "killpg") else child.kill()

        def expire() -> None:  # in a thread: the child may hang while it is sent its arguments, too
            expired.set()
            end()

        timer = threading.Timer(seconds, expire)
        timer.daemon = True
        timer.start()
        try:
            with suppress(BrokenPipeError):  # the child died at once: its status says why
                # A user's own modules import the public names of this package, so only the command goes without.
                pickle.dump((_path(), "_effnet_zoo_command" in sys.modules), child.stdin)
                pickle.dump((function, arguments), child.stdin)
                child.stdin.flush()
            status = child.wait()
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise EngineError(f"the model cannot be sent to another process: {first_line(error)}") from error
        finally:
            timer.cancel()
            end()
            with suppress(BrokenPipeError):
                child.stdin.close()
            child.wait()
        if expired.is_set():
            raise EngineError(f"not done after {seconds:.0f} seconds")
        if status < 0:
            raise EngineError(f"the process was ended by signal {-status}: is there enough memory?")
        if status:
            printed.seek(0)
            lines = printed.read().decode(errors="replace").strip().splitlines()
            raise EngineError(lines[-1] if lines else f"the process ended with status {quoted(status)}")


def _path() -> list[str]:
    """Return where the child looks for modules. After loading a checkout, torch.hub takes it off the path."""
    root = str(Path(__file__).parents[2])
    return sys.path if root in sys.path else [root, *sys.path]
