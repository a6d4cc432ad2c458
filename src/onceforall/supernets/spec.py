"""Stage tables: what a supernet is made of, as data.

A spec knows its search space, the blueprint of every arch in it, and the *slots* that costs are
compiled from. The published families are instances of two stage tables, and so is any table of
your own; a static network is the third kind, in which nothing is elastic; any other network is a
graph, traced.
"""

from __future__ import annotations

from onceforall.supernets.conv_spec import BlockKind, FixedBlock, MBConvSpec, MBConvStage
from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.resnet_spec import ResNetSpec, ResNetStage
from onceforall.supernets.static_spec import StaticSpec

__all__ = [
    "BlockKind",
    "FixedBlock",
    "GraphSpec",
    "MBConvSpec",
    "MBConvStage",
    "ResNetSpec",
    "ResNetStage",
    "StaticSpec",
    "SupernetSpec",
    "TableSpec",
]

TableSpec = MBConvSpec | ResNetSpec | StaticSpec
SupernetSpec = TableSpec | GraphSpec
