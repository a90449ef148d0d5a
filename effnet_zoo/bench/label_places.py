"""Labels beside the marks of a picture, where they cover neither a mark, nor a line, nor each other."""

import itertools
from collections.abc import Sequence
from typing import Any

Label = tuple[tuple[float, float], str, str]
"""A mark's place in the axes' units, the text beside it, and its colour."""

# fmt: off
LABEL_OFFSETS = ((0, 9), (0, -9), (-9, 7), (9, 7), (-9, -7), (9, -7), (-12, 0), (12, 0), (0, 20), (0, -20), (-16, 16),
                 (16, -16))
# fmt: on
"""Where a label may be, in points from its mark, the best place first."""

LINE_PLACES = 40
"""Places on a line between two marks that a label should not cover."""


def place_labels(figure: Any, axes: Any, labels: Sequence[Label]) -> None:
    """Write labels where they cover neither a mark nor each other, or else where they cover least."""
    figure.draw_without_rendering()
    marks = [_around(axes.transData.transform(place), 5) for place, *_ in labels]
    taken = list(marks)
    for line in axes.lines:
        for start, end in itertools.pairwise(axes.transData.transform(line.get_xydata())):
            taken += [_around(start + (end - start) * step / LINE_PLACES, 1.5) for step in range(LINE_PLACES)]
    for (place, label, colour), own in zip(labels, marks, strict=True):
        tried = []
        for dx, dy in LABEL_OFFSETS:
            text = axes.annotate(
                label,
                place,
                (dx, dy),
                textcoords="offset points",
                ha="center" if dx == 0 else "left" if dx > 0 else "right",
                va="center" if dy == 0 else "bottom" if dy > 0 else "top",
                color=colour,
                fontsize=8.5,
            )
            box = tuple(text.get_window_extent().extents)
            tried.append((sum(_overlap(box, other) for other in taken if other is not own), text, box))
        _, kept, box = min(tried, key=lambda one: one[0])
        taken.append(box)
        for _, text, _ in tried:
            if text is not kept:
                text.remove()


def _around(place: Sequence[float], reach: float) -> tuple[float, float, float, float]:
    x, y = place
    return x - reach, y - reach, x + reach, y + reach


def _overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Return the area that two boxes (left, bottom, right, top) share."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)
