import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from onceforall.blueprint import Blueprint, Bottleneck, Conv, GlobalPool, Identity, Linear, MBConv
from onceforall.errors import BlueprintError, MissingExtraError
from onceforall.measure.onnx import model as onnx_model
from onceforall.measure.onnx.model import blueprint_to_onnx, ort_session
from onceforall.supernets import families
from onceforall.supernets.static import StaticNet, build

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FAMILIES = {
    "mobilenet_v3": families.mobilenet_v3(num_classes=7),
    "proxylessnas": families.proxylessnas(num_classes=7),
    "resnet50d": families.resnet50d(num_classes=7),
    "small_images": families.small_images(num_classes=7),
}


def trained_like(plan: Blueprint, seed: int = 0) -> StaticNet:
    """A network whose batch norms do something and whose logits depend on the image."""
    generator = torch.Generator().manual_seed(seed)
    net = build(plan)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2, generator=generator)
                module.running_var.uniform_(0.3, 1.2, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.2, 0.2, generator=generator)
            elif isinstance(module, nn.Conv2d | nn.Linear):
                # More gain, and a network amplifies every rounding on its way to the logits.
                module.weight.normal_(0, module.weight[0].numel() ** -0.5, generator=generator)
                if module.bias is not None:
                    module.bias.uniform_(-0.2, 0.2, generator=generator)
    return net.eval()


def check_parity(net: nn.Module, model: bytes, resolution: int, batch: int = 2) -> None:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(batch, 3, resolution, resolution, generator=generator)
    with torch.no_grad():
        expected = net(images).numpy()
    (logits,) = ort_session(model).run(None, {"images": images.numpy()})
    assert logits.shape == expected.shape
    assert np.abs(expected[0] - expected[1]).max() > 1e-3 * np.abs(expected).max()
    # Folding batch norm and another order of summation: some roundings of float32.
    assert np.abs(logits - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_written_graph_equals_the_network(family: str, seed: int) -> None:
    spec = FAMILIES[family]
    arch = spec.space.sample(random.Random(seed))
    plan = spec.blueprint(arch)
    net = trained_like(plan)
    # Odd sides too: "same" padding and pooling with a ceiling are where graphs go wrong.
    resolution = 33 + 2 * seed if family == "small_images" else 75 + 14 * seed
    check_parity(net, blueprint_to_onnx(plan, net, resolution=resolution), resolution)


def test_every_activation_and_shortcut() -> None:
    names = ("relu", "relu6", "h_swish", "h_sigmoid", "sigmoid", "tanh", "silu", "none")
    convs = tuple(
        Conv(in_channels=8, out_channels=8, kernel_size=3, groups=2, activation=name, residual=True)
        for name in names
    )
    plan = Blueprint(
        stem=(Conv(in_channels=3, out_channels=8, bias=True, norm=False),),
        blocks=(
            *convs,
            Identity(),
            Bottleneck(in_channels=8, mid_channels=4, out_channels=16, stride=2, downsample="conv"),
            MBConv(
                in_channels=16, mid_channels=16, out_channels=16, kernel_size=3,
                has_expansion=False, residual=True, se_channels=4,
            ),
        ),
        head=(GlobalPool(), Linear(in_features=16, out_features=5, bias=False)),
        stage_sizes=(11,),
    )  # fmt: skip
    net = trained_like(plan)
    check_parity(net, blueprint_to_onnx(plan, net, resolution=9), 9)


def test_batch_norm_is_folded_and_the_batch_size_is_as_asked() -> None:
    spec = FAMILIES["small_images"]
    plan = spec.blueprint(spec.space.largest)
    free = onnx.load_from_string(blueprint_to_onnx(plan, resolution=16))
    fixed = onnx.load_from_string(blueprint_to_onnx(plan, resolution=16, batch_size=3))
    for model in (free, fixed):
        onnx.checker.check_model(model, full_check=True)
        assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
        assert [value.name for value in model.graph.input] == ["images"]
        assert [value.name for value in model.graph.output] == ["logits"]
    assert free.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3


def test_the_same_network_gives_the_same_bytes() -> None:
    spec = FAMILIES["small_images"]
    plan = spec.blueprint(spec.space.smallest)
    net = trained_like(plan)
    assert blueprint_to_onnx(plan, net, resolution=8) == blueprint_to_onnx(plan, net, resolution=8)
    assert blueprint_to_onnx(plan, resolution=8) == blueprint_to_onnx(plan, resolution=8)
    other = trained_like(plan, seed=1)
    assert blueprint_to_onnx(plan, net, resolution=8) != blueprint_to_onnx(
        plan, other, resolution=8
    )


def test_weights_of_another_network_are_refused() -> None:
    spec = FAMILIES["small_images"]
    small, large = (spec.blueprint(a) for a in (spec.space.smallest, spec.space.largest))
    with pytest.raises(BlueprintError, match=r"the weights have 7 layers .* blueprint has 13"):
        blueprint_to_onnx(large, build(small).eval(), resolution=8)
    rows = spec.space.uniform(depth=1, kernel_size=3, expand_ratio=2)
    with pytest.raises(BlueprintError, match="are not those of"):
        blueprint_to_onnx(spec.blueprint(rows), build(small).eval(), resolution=8)


def test_a_missing_runtime_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'onceforall\[onnx\]'"):
        ort_session(b"")
    monkeypatch.setitem(sys.modules, "onnx", None)
    spec = FAMILIES["small_images"]
    with pytest.raises(MissingExtraError, match="onnx is not installed"):
        blueprint_to_onnx(spec.blueprint(spec.space.smallest), resolution=8)


def test_importing_the_module_needs_no_extra() -> None:
    code = (
        "import sys; sys.modules['onnx'] = sys.modules['onnxruntime'] = None;"
        f"import {onnx_model.__name__}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
