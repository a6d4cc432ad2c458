"""Costs of traced networks: known answers, and gather tables that are exact."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import onceforall as ofa
from onceforall.encoding import Encoding
from onceforall.errors import BlueprintError, MeasurementError
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.latency.fit import FEATURES
from onceforall.measure.latency.graphs import graph_latency_terms
from onceforall.supernets.families import small_images
from onceforall.supernets.graphs.elasticize import ElasticChoices, elasticize
from tests.supernets.graphs.tiny import Attention, Block, Body, elastic, friendly

NAMES = tuple(friendly())


def test_resnet18_has_its_published_costs() -> None:
    model = torchvision.models.resnet18()
    # 118,013,952 of the stem, 462,422,016 and three times 411,041,792 of the stages, the head.
    known = 118_013_952 + 462_422_016 + 3 * 411_041_792 + 512_000
    assert ofa.count_macs(model, resolution=224) == known == 1_814_073_344
    assert ofa.count_params(model) == 11_689_512


def test_our_own_networks_cost_the_same_as_blueprint_and_as_module() -> None:
    spec = small_images(num_classes=10, resolutions=(16,), widths=(8, 16), depths=(1, 2))
    net = ofa.elastic(spec, seed=0)
    for arch in (spec.space.smallest, spec.space.largest, spec.space.sample(random.Random(0))):
        plain = net.extract(arch)
        wrapped = nn.Sequential(plain)
        expected = ofa.count_macs(plain.plan, resolution=16)
        assert ofa.count_macs(wrapped, resolution=16) == expected
        assert ofa.count_params(wrapped) == ofa.count_params(plain.plan)


def test_attention_is_counted() -> None:
    torch.manual_seed(0)
    tokens, width, hidden, classes = 17, 24, 48, 5
    block = tokens * (width * 3 * width + width * width + 2 * width * hidden)
    block += 2 * tokens * tokens * width
    expected = 16 * width * 3 * 4 * 4 + 3 * block + width * classes
    assert ofa.count_macs(Attention(), resolution=16) == expected


@pytest.mark.parametrize("name", NAMES)
def test_gather_tables_are_exact(name: str) -> None:
    torch.manual_seed(0)
    net = elastic(friendly()[name])
    costs = compile_costs(net.spec)
    encoding = Encoding(net.space)
    rows = np.concatenate(
        [encoding.smallest(), encoding.largest(), encoding.sample(20, np.random.default_rng(0))]
    )
    found = costs.evaluate(rows)
    graphs = [net.blueprint(arch) for arch in encoding.to_archs(rows)]
    assert found["macs"].tolist() == [ofa.count_macs(g, resolution=16) for g in graphs]
    assert found["params"].tolist() == [ofa.count_params(g) for g in graphs]
    assert "peak_activation_bytes" in found
    peaks = [ofa.peak_activation_bytes(g, resolution=16) for g in graphs]
    assert found["peak_activation_bytes"].tolist() == peaks
    arch = encoding.to_archs(rows)[-1]
    assert found["params"][-1] == ofa.count_params(net.extract(arch))
    assert len(set(found["macs"].tolist())) > 3


def test_tables_know_resolutions_and_restrictions() -> None:
    torch.manual_seed(0)
    model = Body(nn.Sequential(Block(16, 32), Block(16, 32)))
    net = elasticize(model, torch.zeros(1, 3, 16, 16), choices=ElasticChoices(resolutions=(16, 24)))
    space = net.space.restrict(depth=(1,))
    costs = compile_costs(net.spec, space=space)
    rows = costs.encoding.sample(10, np.random.default_rng(0))
    expected = [
        ofa.count_macs(net.blueprint(arch), resolution=arch.resolution)
        for arch in costs.encoding.to_archs(rows)
    ]
    assert costs.macs(rows).tolist() == expected
    with pytest.raises(BlueprintError, match="shapes of this graph are for 16 pixels"):
        ofa.count_macs(net.blueprint(space.uniform(resolution=16)), resolution=24)


def test_peak_of_a_chain_is_its_largest_pair() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1), nn.Flatten(),
        nn.Linear(4 * 16 * 16, 5),
    )  # fmt: skip
    numbers = 8 * 256 + 4 * 256  # the second convolution's input and result
    assert ofa.peak_activation_bytes(model, resolution=16) == 4 * max(numbers, (3 + 8) * 256)


def test_a_latency_table_of_another_network_is_refused() -> None:
    net = elastic(friendly()["blocks"])
    weights = dict.fromkeys(FEATURES, 1.0)
    with pytest.raises(
        MeasurementError, match=r"of ort-cpu has no entry Conv.* at \d+ px: it is of"
    ):
        graph_latency_terms(net.spec, Encoding(net.space), {}, weights, target="ort-cpu")
