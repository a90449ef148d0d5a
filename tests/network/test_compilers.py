"""What torch's compilers and exporters make of a model computes the same."""

import copy
import io
import pickle
import warnings
from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from effnet_zoo.numerics import relative_error
from tests.network.models import FAMILIES, NAMES, images, small


def gradients(model: nn.Module) -> Tensor:
    """The gradients of all parameters, as one vector."""
    found = [parameter.grad for parameter in model.parameters()]
    return torch.cat([grad.flatten() for grad in found if grad is not None])


@pytest.mark.parametrize("name", NAMES)
def test_script_trace_pickle_and_deepcopy(name: str) -> None:
    model = small(name)
    x = images(2, 3, 65, 97)
    expected = model(x)
    scripted = torch.jit.script(model)
    traced = torch.jit.trace(model, images(1, 3, 64, 64))  # another size and batch than it is run with
    for other in (scripted, traced, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert relative_error(other(x), expected) <= 1e-6
    saved = io.BytesIO()
    torch.jit.save(scripted, saved)
    saved.seek(0)
    assert relative_error(torch.jit.load(saved)(x), expected) <= 1e-6


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_compiles_as_one_graph_in_training_and_inference(name: str, checkpointing: bool) -> None:
    model = small(name, drop_path_rate=0.0, drop_rate=0.0).double()
    model.set_grad_checkpointing(checkpointing)
    reference = copy.deepcopy(model)
    x = images(2, 3, 65, 96).double()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert relative_error(compiled(x), reference(x)) <= 1e-10
    if checkpointing or name in ("effnet_zoo_b0", "effnet_zoo_v2_s"):
        model.train()
        reference.train()
        compiled(x).square().sum().backward()
        reference(x).square().sum().backward()
        # All at once: a bias in front of another batch norm has a gradient of zero, which alone is only rounding.
        assert relative_error(gradients(model), gradients(reference)) <= 1e-8
        for key, buffer in reference.named_buffers():
            assert torch.allclose(model.get_buffer(key), buffer, rtol=1e-10, atol=0), key


@pytest.mark.parametrize("dynamo", [False, True])
def test_onnx_exporters_take_the_model_as_it_is(dynamo: bool, tmp_path: Path) -> None:
    if dynamo and torch.torch_version.TorchVersion(torch.__version__) < "2.9":
        pytest.skip("the exporter of torch before 2.9 and today's onnxscript do not understand each other")
    model, x = small("effnet_zoo_b0"), images(2, 3, 64, 97)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporters, about themselves
        torch.onnx.export(model, (x,), str(tmp_path / "model.onnx"), dynamo=dynamo, input_names=["x"], verbose=False)
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    assert relative_error(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), model(x)) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_export_with_dynamic_batch_height_and_width_survives_saving(name: str) -> None:
    model = small(name)
    dim = torch.export.Dim
    # From 33: torch treats a size of 1 as special, and 32 pixels are one cell at the end.
    shapes = {0: dim("batch"), 2: dim("height", min=33, max=4096), 3: dim("width", min=33, max=4096)}
    program = torch.export.export(model, (images(2, 3, 64, 96),), dynamic_shapes=(shapes,))
    saved = io.BytesIO()
    torch.export.save(program, saved)
    saved.seek(0)
    loaded = torch.export.load(saved).module()
    for size in ((1, 3, 33, 47), (3, 3, 128, 225)):
        x = images(*size)
        assert relative_error(loaded(x), model(x)) <= 1e-6, size


def test_operators_are_traced_by_fx() -> None:
    model = small("effnet_zoo_b0")
    graph = make_fx(model, tracing_mode="fake", _allow_non_fake_inputs=True)(images(2, 3, 64, 64))
    x = images(2, 3, 64, 64, seed=2)
    assert relative_error(graph(x), model(x)) <= 1e-6
