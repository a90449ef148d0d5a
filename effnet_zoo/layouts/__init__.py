"""What is known of each library's weight files: one file a library, and the table of them all."""

from effnet_zoo.layouts import efficientnet_pytorch, effnet_zoo, effnetv2_port, keras, torchvision, transformers
from effnet_zoo.layouts.keytable import KeyTable
from effnet_zoo.layouts.layout import Layout

__all__ = ["LAYOUTS", "OURS", "KeyTable", "Layout"]

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
