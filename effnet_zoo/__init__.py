"""Every EfficientNet, V1 and V2, for timm and torch.hub. Importing this package registers its models with timm.

>>> import effnet_zoo, timm
>>> model = timm.create_model("effnet_zoo_b5", pretrained=True)
"""

import sys

__version__ = "0.1.0"

# The command imports what each of its parts needs: see `_effnet_zoo_command`.
if "_effnet_zoo_command" not in sys.modules:
    from effnet_zoo import registry as _registered  # noqa: F401  # the import registers the models with timm
    from effnet_zoo.arch.notation import StageSpec, decode_blocks, decode_rows, encode_block, encode_rows
    from effnet_zoo.arch.spec import ArchSpec, Scaling
    from effnet_zoo.checkpoints.creation import create_model
    from effnet_zoo.errors import EffnetZooError
    from effnet_zoo.images.transform import eval_transform
    from effnet_zoo.network.folding import optimize
    from effnet_zoo.network.model import EfficientNet, EfficientNetFeatures
    from effnet_zoo.runtime.engine import Engine, engine
    from effnet_zoo.runtime.export import Export, export
    from effnet_zoo.runtime.int8.quantization import Quantized, quantize
    from effnet_zoo.transfer.conversion import Images, convert
    from effnet_zoo.transfer.opening import open_package
    from effnet_zoo.transfer.publishing import push, save
    from effnet_zoo.zoo.catalogue import find as find_checkpoint
    from effnet_zoo.zoo.preprocessing import preprocessing_of

    __all__ = [
        "ArchSpec",
        "EfficientNet",
        "EfficientNetFeatures",
        "EffnetZooError",
        "Engine",
        "Export",
        "Images",
        "Quantized",
        "Scaling",
        "StageSpec",
        "convert",
        "create_model",
        "decode_blocks",
        "decode_rows",
        "encode_block",
        "encode_rows",
        "engine",
        "eval_transform",
        "export",
        "find_checkpoint",
        "open_package",
        "optimize",
        "preprocessing_of",
        "push",
        "quantize",
        "save",
    ]
