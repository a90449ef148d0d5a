"""Train a B0 on the handwritten digits that scikit-learn ships, to have a real SE + SiLU network to quantize.

    pip install 'effnet-zoo[quantize]' scikit-learn && python benchmarks/digits.py digits
    cd digits
    effnet-zoo quantize model --calib train --eval test --labelled --recipe int8 --min-agreement 0.95 --out int8.onnx

There are no ImageNet weights of a B-series model that pip could install, and drawn weights say nothing of int8: what
breaks it is the spread of values that training leaves behind. These are 1,797 real images with real labels, enlarged
from 8x8 to 64x64 pixels; it takes some three minutes on two cores. It is a small task, so what holds here need not
hold for ImageNet.
"""

import sys
from pathlib import Path

import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

import effnet_zoo
from effnet_zoo.images.decoding import open_image
from effnet_zoo.images.transform import eval_transform
from effnet_zoo.zoo.preprocessing import preprocessing_of

SIDE = 64
TEST = 600
"""Images that are kept for the test: the last, of other writers than the first (the data set is in their order)."""

EPOCHS, BATCH, RATE = 16, 64, 2e-3
SHIFT = 6
"""Pixels that a training image is moved by, at most."""


def write_images(folder: Path) -> None:
    """The digits as two folders of PNGs, a folder a class."""
    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        part = "test" if index >= len(digits.images) - TEST else "train"
        place = folder / part / str(label)
        place.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * (255 / 16)).astype("uint8")).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        image.convert("RGB").save(place / f"{index:04d}.png")


def read_images(folder: Path, model: effnet_zoo.EfficientNet) -> tuple[Tensor, Tensor]:
    """Images (n, 3, 64, 64) as the model wants them, and their labels."""
    transform = eval_transform(preprocessing_of(model.pretrained_cfg))
    paths = sorted(folder.glob("*/*.png"))
    images = [transform(open_image(path)) for path in paths]
    return torch.stack(images), torch.tensor([int(path.parent.name) for path in paths])


def moved(images: Tensor) -> Tensor:
    """Each image moved by some pixels of its own."""
    padded = F.pad(images, [SHIFT] * 4, mode="replicate")
    offsets = torch.randint(0, 2 * SHIFT + 1, (len(images), 2)).tolist()
    return torch.stack([one[:, y : y + SIDE, x : x + SIDE] for one, (y, x) in zip(padded, offsets, strict=True)])


def accuracy(model: effnet_zoo.EfficientNet, images: Tensor, labels: Tensor) -> float:
    """Top-1, 0 to 1."""
    with torch.inference_mode():
        logits = torch.cat([model.eval()(part) for part in images.split(BATCH)])
    return (logits.argmax(1) == labels).float().mean().item()


def main(folder: Path) -> None:
    """Write the images, train, and save the model beside them."""
    torch.manual_seed(0)
    write_images(folder)
    # With batch norm's own momentum, 0.01, its statistics would not arrive in so few steps.
    model = effnet_zoo.EfficientNet.from_name("effnet_zoo_b0", num_classes=10, bn_momentum=0.1, drop_path_rate=0.0)
    how = {"input_size": (3, SIDE, SIDE), "test_input_size": None, "crop_pct": 1.0, "license": "bsd-3-clause"}
    source = {"origin_url": "https://scikit-learn.org", "description": "scikit-learn's digits", "tag": "digits"}
    names = {"label_names": [str(digit) for digit in range(10)], "num_classes": 10}
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, **how, **source, **names}
    train, test = (read_images(folder / part, model) for part in ("train", "test"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.05)
    steps = EPOCHS * (len(train[0]) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(train[0]))
        for batch in order[: len(order) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(model.train()(moved(train[0][batch])), train[1][batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.3f}, test top-1 {accuracy(model, *test):.1%}")  # noqa: T201
    effnet_zoo.save(model, folder / "model")
    print(f"wrote {folder / 'model'}")  # noqa: T201


if __name__ == "__main__":
    main(Path(sys.argv[1]))
