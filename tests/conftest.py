"""Workers that run side by side share the processors instead of each taking all of them."""

import os

import torch

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
