"""The layout of this package, which is also that of timm 1.0 (models/efficientnet.py) and of geffnet 1.0.2.

Example of a key: ``blocks.1.0.conv_dw.weight``.
"""

from effnet_zoo.arch.families import Padding
from effnet_zoo.layouts.keytable import BLOCKS, NETWORK, KeyTable
from effnet_zoo.layouts.layout import Layout, NetworkDescription, Reference, archs_named
from effnet_zoo.network.options import GLOBAL_POOLS
from effnet_zoo.zoo import catalogue

TABLE = KeyTable(name="effnet_zoo", network=NETWORK, block="blocks.{before}.{block}.", blocks=BLOCKS)

PAD_TYPES: dict[Padding, str] = {"same": "same", "symmetric": ""}
"""Our names of a padding, and timm's values of ``pad_type``."""


def _reference(network: NetworkDescription) -> Reference:
    import timm

    module = timm.create_model(
        network.variant.upstream,
        num_classes=network.num_classes,
        in_chans=network.in_chans,
        pad_type=PAD_TYPES[network.arch.padding],
        bn_eps=network.arch.bn_eps,
        act_layer=network.arch.activation,
        global_pool=network.global_pool,
        output_stride=network.output_stride or 32,
    )
    return Reference(distribution="timm", module=module)


LAYOUT = Layout(
    table=TABLE,
    archs=archs_named(*catalogue.models()),
    convention="SAME padding, batch norm eps 1e-3 (timm's models without tf_ in their name: symmetric, 1e-5)",
    loads_with="timm.create_model('local-dir:DIR', pretrained=True)",
    aliases=("timm", "geffnet"),
    reference=_reference,
    poolings=GLOBAL_POOLS,
    dilates=True,
)
