"""Stage tables: what a supernet is made of, as data.

A spec knows its search space, the blueprint of every arch in it, and the *slots* that costs are
compiled from. The published families are instances of two stage tables, and so is any table of
your own; any other network is a graph, traced.
"""

from __future__ import annotations

from onceforall.supernets.graphs.spec import GraphSpec
from onceforall.supernets.mbconv_spec import BlockKind, FixedBlock, MBConvSpec, MBConvStage
from onceforall.supernets.resnet_spec import ResNetSpec, ResNetStage

__all__ = [
    "BlockKind",
    "FixedBlock",
    "GraphSpec",
    "MBConvSpec",
    "MBConvStage",
    "ResNetSpec",
    "ResNetStage",
    "SupernetSpec",
    "TableSpec",
]

TableSpec = MBConvSpec | ResNetSpec
SupernetSpec = TableSpec | GraphSpec
