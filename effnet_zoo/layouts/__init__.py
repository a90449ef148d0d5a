"""What is known of each library's weight files: one file a library, and the table of them all."""

from effnet_zoo.layouts import efficientnet_pytorch, effnet_zoo, effnetv2_port, keras, torchvision, transformers
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.layouts.layout import Layout
from effnet_zoo.zoo.ledger import Checkpoint

__all__ = ["LAYOUTS", "OURS", "KeyTable", "Layout", "layout_of_checkpoint"]

OURS = effnet_zoo.LAYOUT

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        OURS,
        efficientnet_pytorch.LAYOUT,
        torchvision.LAYOUT,
        transformers.LAYOUT,
        keras.V1_LAYOUT,
        keras.V2_LAYOUT,
        effnetv2_port.LAYOUT,
    )
}
"""Every layout by its name. Where keys fit several of them, errors name the first one first."""


def layout_of_checkpoint(checkpoint: Checkpoint) -> Layout:
    """Return the layout that the weight file of a ledger's checkpoint has."""
    return LAYOUTS[checkpoint.shipped.layout] if checkpoint.shipped else OURS
