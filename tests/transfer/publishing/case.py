"""What the tests of publishing push, and where: a network of a few thousand weights, and a repository of somebody's."""

from effnet_zoo import ArchSpec, EfficientNet, Images
from effnet_zoo.numerics import randomise

ROWS = [(1, 8, 1, 1, 1), (4, 16, 1, 2, 1), (4, 24, 1, 2, 0), (4, 32, 1, 2, 0), (4, 40, 1, 2, 0)]
IMAGES = Images(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), size=64)
NAMES = ("ant", "bee", "cat", "dog", "eel")
OURS = {"README.md", "config.json", "model.safetensors"}
THEIRS = {"README.md": b"---\nlanguage: en\n---\n# Birds\n\nMine.\n", "pytorch_model.bin": b"pickle", "a.txt": b"a"}


def tiny(seed: int = 0) -> EfficientNet:
    """A network of a few thousand weights, none of the variants."""
    arch = ArchSpec.from_rows(ROWS, stem=8, head=64)
    return randomise(EfficientNet(arch, num_classes=len(NAMES)), seed=seed).eval()
