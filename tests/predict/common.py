"""What the tests of predictions share."""

from pathlib import Path

import torch
from torch import Tensor

from effnet_zoo import EfficientNet, eval_transform, preprocessing_of
from effnet_zoo.images.decoding import open_image

LITE0 = "effnet_zoo_lite0.pypi_in1k"


def one_by_one(model: EfficientNet, paths: list[Path]) -> Tensor:
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    with torch.inference_mode():
        return torch.cat([model(transform(open_image(path))[None]) for path in paths])
