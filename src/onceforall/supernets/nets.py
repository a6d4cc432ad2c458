"""Elastic and plain networks of every kind: from stage tables, and from traced networks."""

from __future__ import annotations

import copy
import dataclasses

import torch
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.blueprint import Blueprint
from onceforall.errors import BlueprintError
from onceforall.graph import Graph, Node, Weight
from onceforall.supernets.blocks import Classifier
from onceforall.supernets.graphs.network import GraphNet, build_graph, draw_weights
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.single import SingleArchNet
from onceforall.supernets.spec import SupernetSpec
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet

ElasticNet = Supernet | GraphSupernet
PlainNet = StaticNet | GraphNet
NetPlan = Blueprint | Graph


def new_net(spec: SupernetSpec) -> ElasticNet:
    """Return a supernet with weights drawn from PyTorch's current generator."""
    if isinstance(spec, GraphSpec):
        net = GraphSupernet(spec)
        draw_weights(net.model)
        return net
    return Supernet(spec)


def build_net(plan: NetPlan) -> PlainNet:
    """Return the plain module of a network, in training mode, freshly initialised."""
    return build_graph(plan) if isinstance(plan, Graph) else build(plan)


def copy_statistics(net: ElasticNet, arch: Arch, plain: PlainNet) -> None:
    """Copy the batch-norm statistics of one subnet's plain twin to the channels that it runs.

    Args:
        net: The supernet, changed in place.
        arch: The subnet.
        plain: What ``net.extract(arch)`` gave, with statistics of its own.
    """
    if isinstance(plain, StaticNet):
        assert isinstance(net, Supernet)
        net.set_statistics(arch, plain)
    else:
        assert isinstance(net, GraphSupernet)
        net.set_statistics(arch, plain)


@torch.no_grad()
def interpolated(given: ElasticNet, trained: ElasticNet, share: float) -> ElasticNet:
    """Return the supernet on the straight line between two of one spec.

    Args:
        given: The supernet at 0, on any device.
        trained: The supernet at 1; whatever is no weight, such as the order of channels, is its.
        share: How far from the first to the second, 0 .. 1.

    Returns:
        ``trained`` itself at 1; in between and at 0 a new one on its device.

    Source: Wortsman et al., *Robust fine-tuning of zero-shot models*, CVPR 2022.
    """
    if share == 1:
        return trained
    # What is not its own to change is shared.
    shared = {id(part): part for part in (trained.spec, trained.space)}
    start, net = given.state_dict(), copy.deepcopy(trained, shared)
    for name, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.lerp(start[name].to(value.device), value, share))
    return net


def classifier_of(net: nn.Module) -> nn.Module:
    """Return the part of an elastic or plain network that makes logits of features.

    Raises:
        BlueprintError: If it is neither.
    """
    if isinstance(net, SingleArchNet):
        return classifier_of(net.plain)
    if isinstance(net, Supernet):
        return net.layers[-1]
    if isinstance(net, StaticNet):
        return net.head[-1]
    if isinstance(net, GraphNet):
        return net.get_submodule(_classifier(net.plan.nodes))
    if isinstance(net, GraphSupernet):
        return net.model.get_submodule(_classifier(net.spec.nodes[-1]))
    raise BlueprintError(f"{type(net).__name__} is no elastic or plain network")


def body_of(plain: PlainNet) -> nn.Module:
    """Return a copy of a network without its classifier: images to features ``(B, F)``.

    Raises:
        BlueprintError: If it ends in no fully connected layer.
    """
    if isinstance(plain, StaticNet) and isinstance(plain.head[-1], Classifier):
        body = copy.deepcopy(plain)
        body.head[-1] = nn.Flatten()
        return body
    if isinstance(plain, GraphNet):
        nodes, name = plain.plan.nodes, f"{_classifier(plain.plan.nodes)}.weight"
        for node in reversed(nodes):
            read = [part for part in node.parts() if isinstance(part, Weight)]
            before = [nodes[index] for index in node.inputs]
            if name in [weight.name for weight in read] and len(before[0].shape) == 2:
                end = node.inputs[0]
                plan = dataclasses.replace(plain.plan, nodes=nodes[: end + 1], output=end)
                trunk = GraphNet(plan).to(next(plain.parameters()).device)
                trunk.load_state_dict(plain.state_dict())
                return trunk.train(plain.training)
    raise BlueprintError("the network ends in no fully connected layer")


def linear_of(net: nn.Module) -> tuple[Tensor, Tensor]:
    """Return weight ``(C, F)`` and bias ``(C,)`` of the classifier of an elastic or plain network.

    Raises:
        BlueprintError: If it has not one of each.
    """
    tensors = sorted(classifier_of(net).parameters(), key=lambda tensor: -tensor.ndim)
    if [tensor.ndim for tensor in tensors] != [2, 1]:
        raise BlueprintError("the classifier is no fully connected layer with a bias")
    return tensors[0], tensors[1]


def _classifier(nodes: tuple[Node, ...]) -> str:
    """Return the path of the module whose weight is read last."""
    for node in reversed(nodes):
        for part in node.parts():
            if isinstance(part, Weight):
                return part.name.rpartition(".")[0]
    return ""
