"""Elastic operators: one weight, many sizes. Integers in, tensors out."""

from onceforall.ops.conv import ElasticConv2d, ElasticDepthwiseConv2d
from onceforall.ops.dense import ElasticLinear, ElasticSqueezeExcite, SqueezeExcite
from onceforall.ops.functional import activate, center_crop, channel_importance
from onceforall.ops.norm import ElasticBatchNorm2d

__all__ = [
    "ElasticBatchNorm2d",
    "ElasticConv2d",
    "ElasticDepthwiseConv2d",
    "ElasticLinear",
    "ElasticSqueezeExcite",
    "SqueezeExcite",
    "activate",
    "center_crop",
    "channel_importance",
]
