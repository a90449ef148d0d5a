"""The entry of the ``effnet-zoo`` command, also ``python -m effnet_zoo``.

It imports next to nothing, so that Ctrl-C is answered from the first moment, and sets up what belongs to a process of
its own: signals and streams. `effnet_zoo.cli.main`, which tests and other programs may call, leaves these alone.
"""

import io
import signal
import sys
from types import FrameType


def main() -> None:
    """Runs the command and ends the process: see `effnet_zoo.cli.main` for the exit status."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while modules are imported there is nothing to clean up
    signal.signal(signal.SIGTERM, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to stop
            stream.reconfigure(errors="backslashreplace")
    from effnet_zoo.cli import main as run

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # as an exception, so that temporary files are removed on the way out


if __name__ == "__main__":
    main()
