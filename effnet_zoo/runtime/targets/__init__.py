"""Runtimes and file formats: each is a target. The table of them is `effnet_zoo.runtime.targets.table`."""
