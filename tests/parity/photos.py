"""Real photos that come with packages, so that nothing is fetched and nobody's pictures are in this repository."""

from pathlib import Path

import matplotlib
import skimage.data

GOLDEN = Path(__file__).parents[1] / "golden"

_SKIMAGE = Path(skimage.data.__file__).parent
PHOTOS = {
    path.name: path
    for path in (
        _SKIMAGE / "chelsea.png",
        _SKIMAGE / "coffee.png",
        _SKIMAGE / "rocket.jpg",
        Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg"),
    )
}
