"""The layout of the one-file PyTorch port of EfficientNetV2 (github.com/d-li14/efficientnetv2.pytorch, effnetv2.py).

Squeeze-excite is two linear layers there. Everything in front of the head convolution is one list, which begins with
the stem. The port is no package, so it has no reference implementation here. Example of a key:
``features.9.conv.3.weight``.
"""

from effnet_zoo.arch import families
from effnet_zoo.arch.notation import decode_rows
from effnet_zoo.arch.spec import ArchSpec
from effnet_zoo.layouts.keytable import AS_IN_TORCH, Form, KeyTable
from effnet_zoo.layouts.layout import Layout

TABLE = KeyTable(
    name="effnetv2_port",
    network=("features.0.0", "features.0.1", "conv.0", "conv.1", "classifier"),
    block="features.{next}.conv.",
    blocks={
        "mbconv": ("0", "1", "3", "4", "6.fc.0", "6.fc.2", "7", "8"),
        "fused": ("0", "1", "3", "4"),
    },
    forms={**AS_IN_TORCH, "squeeze": {"weight": Form(name="weight", flat=True), "bias": Form(name="bias")}},
)

ROWS = {
    "effnetv2_port_s_272": (*families.V2_S[:-1], (6, 272, 15, 2, 0)),  # S had 272 filters in the last stage at first
    "effnetv2_port_s": families.V2_S,
    "effnetv2_port_m": families.V2_M,
    "effnetv2_port_l": families.V2_L,
    "effnetv2_port_xl": families.V2_XL,
}

ARCHS = {
    name: ArchSpec.build(
        decode_rows(rows, stem=24),
        stem=24,
        head=1792,
        padding="symmetric",
        bn_eps=1e-5,
        bn_momentum=0.1,
        drop_rate=0.0,
        drop_path_rate=0.0,
        se_divisor=8,
        fused_always_projects=True,
    )
    for name, rows in ROWS.items()
}
"""The port's networks: their stem, head and squeeze widths differ from ours, and they drop nothing."""

LAYOUT = Layout(
    table=TABLE,
    archs=ARCHS,
    convention="symmetric padding, batch norm eps 1e-5",
    loads_with="effnetv2.py: effnetv2_*().load_state_dict(load_file('DIR/model.safetensors'))",
)
