"""Start the ``effnet-zoo`` command.

`effnet_zoo` sees that this module is being imported, and then imports neither its public names, nor torch, nor timm:
each command imports what it needs. A child process of a command may import this module for the same reason.
"""


def main() -> None:
    """Run the command, as `effnet_zoo.__main__.main` does. Ctrl-C ends the process from here on."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to clean up while modules are imported
    from effnet_zoo.__main__ import main as run

    run()
