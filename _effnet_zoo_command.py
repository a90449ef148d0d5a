"""Start the ``effnet-zoo`` command.

`effnet_zoo` sees that this module is being imported, and then imports neither its public names, nor torch, nor timm:
each command imports what it needs. A child process of a command may import this module for the same reason.
"""

from effnet_zoo.__main__ import main

__all__ = ["main"]
