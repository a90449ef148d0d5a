"""``python -m effnet_zoo`` is the ``effnet-zoo`` command."""

from effnet_zoo.cli import main

if __name__ == "__main__":
    main()
