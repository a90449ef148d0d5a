"""Contestants timed in turn, so that whatever else the machine does meets all of them alike."""

import gc
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from effnet_zoo.errors import first_line

Call = Callable[[], object]

REST = 0.05
"""Seconds between two contestants: the threads of ONNX Runtime and OpenVINO spin for a while after a call."""

TIMED = 3
"""Calls that count each time it is a contestant's turn."""

TURN = 2.0
"""Seconds of a turn after which no further call begins, once one has counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds a call: the median, the 10th and the 90th percentile, and of how many calls."""

    seconds: float
    p10: float
    p90: float
    calls: int


def summary(samples: Sequence[float]) -> Timing:
    """A contestant's calls in one row."""
    p10, median, p90 = (float(value) for value in np.quantile(samples, (0.1, 0.5, 0.9)))
    return Timing(seconds=median, p10=p10, p90=p90, calls=len(samples))


def seconds(call: Call, device: str) -> float:
    """How long one call takes; on CUDA between two events on the stream."""
    if device == "cuda":
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(
    calls: Mapping[str, Call],
    *,
    rounds: int,
    device: str = "cpu",
    rest: float = REST,
    timed: int = TIMED,
    warm: bool = True,
) -> tuple[dict[str, Timing], dict[str, str]]:
    """Time contestants round by round, in an order that is drawn anew for each round, with a fixed seed.

    Args:
        calls: What to time, by name.
        rounds: How often everyone has a turn.
        device: ``cpu`` or ``cuda``.
        rest: Seconds to sleep before each turn.
        timed: Calls that count in a turn; fewer where they take long, but one at least.
        warm: Whether one that does not count goes before.

    Returns:
        The timings, and why the others, which raised, have none.
    """
    samples: dict[str, list[float]] = {name: [] for name in calls}
    failures: dict[str, str] = {}
    draw = random.Random(0)
    for _ in range(rounds):
        order = [name for name in calls if name not in failures]
        draw.shuffle(order)
        gc.collect()  # so that few turns pay for the garbage of others
        for name in order:
            time.sleep(rest)
            start = time.perf_counter()
            try:
                if warm:
                    calls[name]()
                for turn in range(timed):
                    if turn and time.perf_counter() - start > TURN:
                        break
                    samples[name].append(seconds(calls[name], device))
            except Exception as error:  # whatever one contestant raises must not stop the rest
                failures[name] = first_line(error)
    return {name: summary(taken) for name, taken in samples.items() if name not in failures}, failures


def ratios(timings: Mapping[str, Timing], ours: Sequence[str], baseline: str = "timm") -> dict[str, dict[str, float]]:
    """How many times faster each contestant's median is than the baseline's, and than that of the best peer.

    Args:
        timings: By name.
        ours: The names that are this package's; all others are peers.
        baseline: The name of the first comparison.

    Returns:
        By what is compared with, ``timm`` and ``best peer (NAME)``, the ratios by name. Without it there is none.
    """
    peers = [name for name in timings if name not in ours]
    against = {baseline: baseline} if baseline in timings else {}
    if peers:
        best = min(peers, key=lambda name: timings[name].seconds)
        against[f"best peer ({best})"] = best
    return {
        label: {name: timings[other].seconds / timing.seconds for name, timing in timings.items()}
        for label, other in against.items()
    }
