"""Draw predictions: the photo beside the bars of its most likely classes. This needs the `demo` extra."""

import os
from pathlib import Path

from effnet_zoo.atomic_io import check_destination, written_whole
from effnet_zoo.errors import MissingExtraError, printable
from effnet_zoo.images.decoding import open_image
from effnet_zoo.predict.prediction import Prediction

try:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
except ImportError:
    raise MissingExtraError(
        "pictures need matplotlib, which is not installed: pip install 'effnet-zoo[demo]'"
    ) from None

BAR, SURFACE, INK, MUTED = "#2a6fb0", "#ffffff", "#1c1f24", "#6b7280"

_LONGEST_NAME = 255
"""Largest number of bytes in a file name on the usual file systems."""


class Pictures:
    """A folder of pictures, one for each prediction. Files that are there are not replaced: names are numbered.

    The folder is made with the first picture. Photos are turned as for the predictions.
    """

    def __init__(self, folder: Path, model_name: str, *, orientation: bool = True) -> None:
        check_destination(folder / "picture.png")
        self.folder, self.model_name, self.orientation = folder, model_name, orientation

    def save(self, prediction: Prediction) -> Path:
        """Write a PNG of a prediction without error, whole or not at all, and return its path."""
        path = self._free_path(prediction.path.stem)
        figure = Figure(figsize=(11, 4.6), dpi=120, facecolor=SURFACE, layout="constrained")
        canvas = FigureCanvasAgg(figure)
        photo, bars = figure.subplots(1, 2, width_ratios=(1, 1))
        photo.imshow(open_image(prediction.path, orientation=self.orientation))
        photo.set_axis_off()
        for place, guess in enumerate(prediction.guesses):
            label, share = _shortened(printable(guess.label)), guess.probability
            bars.barh(place, share, height=0.55, color=BAR)
            bars.text(0, place - 0.36, label, ha="left", va="bottom", color=INK, fontsize=10, parse_math=False)
            bars.text(share + 0.012, place, f"{share:.1%}", ha="left", va="center", color=INK, fontsize=10)
        bars.set_xlim(0, 1.12)
        bars.set_ylim(len(prediction.guesses) - 0.4, -0.8)
        bars.set_axis_off()
        title = printable(f"{prediction.path.name}  ·  {self.model_name}")
        bars.set_title(title, loc="left", color=MUTED, fontsize=9, parse_math=False)
        with written_whole(path) as beside:
            canvas.print_figure(beside, format="png")
        return path

    def _free_path(self, stem: str) -> Path:
        path, end, number = None, ".png", 1
        while path is None or os.path.lexists(path):
            while len(os.fsencode(stem + end)) > _LONGEST_NAME:
                stem = stem[:-1]
            path = self.folder / (stem + end)
            number += 1
            end = f"-{number}.png"
        return path


def _shortened(label: str, limit: int = 48) -> str:
    return label if len(label) <= limit else label[: limit - 1].rstrip(", ") + "…"
