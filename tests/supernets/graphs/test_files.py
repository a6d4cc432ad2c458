"""Elastic networks and what is cut out of them, on disk and in other forms."""

from __future__ import annotations

import copy
import io
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from onceforall.errors import BlueprintError, OnceForAllError
from onceforall.graph import Node, Ref, graph_from_json, graph_to_json
from onceforall.measure.onnx.graph import OnnxGraph
from onceforall.measure.onnx.model import blueprint_to_onnx, ort_session
from onceforall.measure.onnx.traced import add_graph
from onceforall.supernets.graphs.network import GraphNet, build_graph
from onceforall.supernets.weights import (
    load_plain,
    load_saved_supernet,
    save_plain,
    save_supernet,
    spec_from_json,
    spec_to_json,
)
from tests.supernets.graphs.test_elasticize import images
from tests.supernets.graphs.tiny import Attention, Block, Body, elastic, friendly, shuffled

NAMES = tuple(friendly())


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return friendly()[request.param]


def test_files_give_the_same_network_without_what_made_it(model: nn.Module, tmp_path: Path) -> None:
    net = shuffled(elastic(model))
    arch = net.space.sample(random.Random(1))
    save_supernet(net, tmp_path / "net.safetensors", facts={"data": "none"})
    again, facts = load_saved_supernet(tmp_path / "net.safetensors")
    assert again.spec == net.spec and facts == {"data": "none"}
    plain = net.extract(arch)
    save_plain(plain, tmp_path / "plain.safetensors")
    graph = graph_from_json(json.loads(json.dumps(graph_to_json(plain.plan))))
    assert graph == plain.plan
    read = load_plain(graph, tmp_path / "plain.safetensors")
    with torch.no_grad():
        expected = net(images(), arch)
        assert torch.equal(again(images(), arch), expected)
        assert torch.equal(read(images()), expected)
    own = set(model.state_dict())
    assert {name for name in plain.state_dict() if not name.startswith("constants.")} <= own


def test_onnx_is_written_node_by_node(model: nn.Module) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    net = shuffled(elastic(model))
    plain = net.extract(net.space.sample(random.Random(2)))
    add_graph(OnnxGraph(onnx), plain.plan, plain, "images")  # no part needs PyTorch's exporter
    data = blueprint_to_onnx(plain.plan, plain, resolution=plain.plan.resolution)
    x = images(3)
    (logits,) = ort_session(data).run(None, {"images": x.numpy()})
    with torch.no_grad():
        expected = plain(x).numpy()
    assert np.abs(logits - expected).max() <= 2e-5 * np.abs(expected).max()


def test_plain_networks_are_plain() -> None:
    torch.manual_seed(0)
    net = elastic(Attention())
    plain = net.extract(net.space.smallest)
    with torch.no_grad():
        expected = plain(images(3))
        for other in (copy.deepcopy(plain), pickle.loads(pickle.dumps(plain))):
            assert torch.equal(other(images(3)), expected)
        batch = torch.export.Dim("batch", min=1)
        program = torch.export.export(plain, (images(2),), dynamic_shapes=({0: batch},))
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        loaded = torch.export.load(io.BytesIO(buffer.getvalue())).module()
        assert torch.equal(loaded(images(3)), expected)


def test_plain_networks_train() -> None:
    torch.manual_seed(0)
    net = elastic(Body(nn.Sequential(Block(16, 32), Block(16, 32))))
    plain = net.extract(net.space.smallest).train()
    plain(images()).sum().backward()
    assert all(parameter.grad is not None for parameter in plain.parameters())
    fresh = build_graph(plain.plan)
    assert isinstance(fresh, GraphNet) and bool(torch.isfinite(fresh(images())).all())


def test_a_file_cannot_call_what_is_not_an_operator() -> None:
    torch.manual_seed(0)
    spec = spec_to_json(elastic(Body(Block(16, 32))).spec)
    text = json.dumps(spec).replace('"relu.default"', '"__class__.mro"')
    with pytest.raises(OnceForAllError, match="not one of ATen's"):
        changed = spec_from_json(json.loads(text))
        nodes = changed.blueprint(changed.space.largest)  # type: ignore[union-attr]
        build_graph(nodes)  # type: ignore[arg-type]


def test_a_node_reads_what_is_before_it() -> None:
    torch.manual_seed(0)
    net = elastic(Body(Block(16, 32)))
    graph = net.blueprint(net.space.largest)
    late = Node(name="late", op="relu.default", args=(Ref(99),), shape=graph.nodes[1].shape)
    with pytest.raises(BlueprintError, match="late reads"):
        type(graph)(
            nodes=(*graph.nodes, late), weights=graph.weights, norms=graph.norms,
            output=graph.output, num_classes=5, resolution=16, any_resolution=True,
        )  # fmt: skip
