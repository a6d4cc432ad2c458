"""Networks of torchvision and timm at small sides; ``benchmarks/elasticize.py`` has all 63."""

from __future__ import annotations

import copy
import random

import pytest
import torch

import onceforall as ofa
from onceforall.encoding import Encoding
from onceforall.job.outside_nets import make_network
from onceforall.measure.cost_tables import compile_costs
from onceforall.supernets.graphs.elasticize import elasticize
from onceforall.supernets.graphs.exported import in_eval_mode
from tests.supernets.graphs.tiny import masked, shuffled

SIDE = 64
NETS = {
    "torchvision:resnet18": {"width_mult", "depth", "expand_ratio"},
    "torchvision:mobilenet_v3_small": {"width_mult", "depth", "expand_ratio", "kernel_size"},
    "torchvision:shufflenet_v2_x0_5": {"width_mult"},
    "timm:mobilenetv4_conv_small": {"width_mult", "depth", "expand_ratio", "kernel_size"},
    "timm:convnextv2_atto": {"width_mult", "depth", "expand_ratio", "kernel_size"},
}


@pytest.mark.parametrize("name", NETS)
def test_a_real_network_is_elastic_and_right(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm")
    torch.manual_seed(0)
    model = make_network(name, num_classes=10)
    net = elasticize(model, torch.zeros(1, 3, SIDE, SIDE), name=name)
    assert {gene.axis for gene in net.space.genes} == NETS[name]
    images = torch.randn(2, 3, SIDE, SIDE)
    with torch.no_grad(), in_eval_mode(model):
        assert torch.equal(net(images, net.space.largest), model(images))
    net = shuffled(net)
    arch = net.space.sample(random.Random(0))
    double = images.double()
    with torch.no_grad():
        assert torch.equal(net(images, arch), net.extract(arch)(images))
        found = copy.deepcopy(net).double()(double, arch)
    expected = masked(net, model, arch, double)
    assert float((found - expected).abs().max()) <= 1e-10 * float(expected.abs().max())
    rows = Encoding(net.space).from_archs([arch])
    costs = compile_costs(net.spec).evaluate(rows, ("macs", "params"))
    assert costs["macs"][0] == ofa.count_macs(net.extract(arch), resolution=SIDE)
    assert costs["params"][0] == ofa.count_params(net.extract(arch))
