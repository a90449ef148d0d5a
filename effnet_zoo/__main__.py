"""Run the ``effnet-zoo`` command as a process: ``python -m effnet_zoo``.

`main` sets the signals and streams of the process before it imports anything large, so that Ctrl-C ends the command at
any time. `effnet_zoo.cli.main` leaves the process alone: tests and other programs may call it.
"""

import io
import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command and end the process. `effnet_zoo.cli.main` says what the exit status means."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing is to clean up while modules are imported
    signal.signal(signal.SIGTERM, _end)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters that the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    from effnet_zoo.cli import main as run

    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)  # raises, so that temporary files are removed


if __name__ == "__main__":
    main()
