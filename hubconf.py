"""torch.hub entry points: one for each model, with the arguments of `effnet_zoo.create_model`."""

from effnet_zoo import registry as _registry
from effnet_zoo.zoo import catalogue as _catalog

dependencies = ["torch", "timm", "safetensors", "huggingface_hub"]

globals().update({_model.hub_name: _registry.hub_entry(_model) for _model in _catalog.models().values()})
