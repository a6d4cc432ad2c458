"""Stage tables by name: the published families and one for small images.

Source of the published tables: Cai et al., *Once-for-All*, ICLR 2020, and the released networks.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from onceforall.errors import ConfigError
from onceforall.supernets.spec import (
    BlockKind,
    FixedBlock,
    MBConvSpec,
    MBConvStage,
    ResNetSpec,
    ResNetStage,
    TableSpec,
)

PUBLISHED_RESOLUTIONS = tuple(range(128, 225, 4))


def mobilenet_v3(
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    dropout: float = 0.0,
    resolutions: tuple[int, ...] = PUBLISHED_RESOLUTIONS,
) -> MBConvSpec:
    """Return the published MobileNetV3 supernet: kernels 3-7, expand ratios 3-6, depths 2-4."""
    rows = (
        (24, 2, "relu", False),
        (40, 2, "relu", True),
        (80, 2, "h_swish", False),
        (112, 1, "h_swish", True),
        (160, 2, "h_swish", True),
    )
    return MBConvSpec(
        num_classes=num_classes,
        resolutions=resolutions,
        stem_width=16,
        stem_stride=2,
        stem_activation="h_swish",
        fixed_block=FixedBlock(width=16, activation="relu"),
        stages=tuple(
            MBConvStage(
                width=width,
                stride=stride,
                activation=activation,  # type: ignore[arg-type]
                squeeze_excite=squeeze_excite,
                num_blocks=4,
                depths=(2, 3, 4),
                kernel_sizes=(3, 5, 7),
                expand_ratios=(3, 4, 6),
            )
            for width, stride, activation, squeeze_excite in rows
        ),
        expand_width=960,
        mix_width=1280,
        head_activation="h_swish",
        width_mult=width_mult,
        dropout=dropout,
    )


def proxylessnas(
    *,
    num_classes: int = 1000,
    width_mult: float = 1.3,
    dropout: float = 0.0,
    widths: tuple[int, ...] = (40, 80, 96, 192),
    resolutions: tuple[int, ...] = PUBLISHED_RESOLUTIONS,
) -> MBConvSpec:
    """Return the published ProxylessNAS supernet: kernels 3-7, expand ratios 3-6, depths 2-4.

    Args:
        widths: Output channels of stages 1 to 4; the released weights use the default, and
            MobileNetV2's are (32, 64, 96, 160).
    """
    strides = (2, 2, 2, 1, 2, 1)
    return MBConvSpec(
        num_classes=num_classes,
        resolutions=resolutions,
        stem_width=32,
        stem_stride=2,
        stem_activation="relu6",
        fixed_block=FixedBlock(width=16, activation="relu6"),
        stages=tuple(
            MBConvStage(
                width=width,
                stride=stride,
                activation="relu6",
                num_blocks=4 if stage < 5 else 1,
                depths=(2, 3, 4) if stage < 5 else (1,),
                kernel_sizes=(3, 5, 7),
                expand_ratios=(3, 4, 6),
            )
            for stage, (width, stride) in enumerate(zip((24, *widths, 320), strides, strict=True))
        ),
        expand_width=1280,
        mix_width=0,
        head_activation="relu6",
        width_mult=width_mult,
        dropout=dropout,
        norm_eps=1e-3,
    )


def resnet50d(
    *,
    num_classes: int = 1000,
    dropout: float = 0.0,
    resolutions: tuple[int, ...] = PUBLISHED_RESOLUTIONS,
) -> ResNetSpec:
    """Return the published ResNet50D supernet: elastic depth, expand ratio, width and stem."""
    rows = ((256, 1, 4), (512, 2, 4), (1024, 2, 6), (2048, 2, 4))
    return ResNetSpec(
        num_classes=num_classes,
        resolutions=resolutions,
        stem_width=64,
        stages=tuple(
            ResNetStage(
                width=width,
                stride=stride,
                num_blocks=blocks,
                depths=(blocks - 2, blocks - 1, blocks),
            )
            for width, stride, blocks in rows
        ),
        expand_ratios=(0.2, 0.25, 0.35),
        width_mults=(0.65, 0.8, 1.0),
        dropout=dropout,
    )


def small_images(
    *,
    num_classes: int,
    resolutions: tuple[int, ...] = (24, 28, 32),
    widths: tuple[int, ...] = (24, 40, 80),
    width_mults: tuple[float, ...] = (0.5, 0.75, 1.0),
    depths: tuple[int, ...] = (1, 2, 3),
    kernel_sizes: tuple[int, ...] = (3, 5, 7),
    expand_ratios: tuple[float, ...] = (2, 3, 4),
    stem_width: int = 16,
    mix_width: int = 0,
    expand_width: int = 160,
    divisor: int = 8,
    dropout: float = 0.0,
) -> MBConvSpec:
    """Return a supernet for images of 8 to 64 pixels, elastic on every axis.

    Args:
        num_classes: Outputs of the classifier.
        resolutions: Input sides in pixels, ascending.
        widths: Output channels of each stage; stage 0 keeps the resolution, later ones halve it.
    """
    return MBConvSpec(
        num_classes=num_classes,
        resolutions=resolutions,
        stem_width=stem_width,
        stem_stride=1,
        stem_activation="h_swish",
        stem_width_mults=width_mults,
        stages=tuple(
            MBConvStage(
                width=width,
                stride=1 if stage == 0 else 2,
                activation="relu" if stage == 0 else "h_swish",
                squeeze_excite=False,
                num_blocks=depths[-1],
                depths=depths,
                kernel_sizes=kernel_sizes,
                expand_ratios=expand_ratios,
                width_mults=width_mults,
            )
            for stage, width in enumerate(widths)
        ),
        expand_width=expand_width,
        mix_width=mix_width,
        head_activation="h_swish",
        divisor=divisor,
        dropout=dropout,
    )


def ofanet(
    *,
    num_units: int = 1,
    in_channels: int = 3,
    num_classes: int = 10,
    max_width: float = 4,
    max_depth: int = 3,
    max_kernel_size: int = 7,
    resolutions: tuple[int, ...] = (32,),
    dropout: float = 0.0,
) -> MBConvSpec:
    """Return the small family for CIFAR-10: one kernel, depth and width for the whole network.

    Stem of 32 channels, a separable convolution that halves the side, units of elastic inverted
    bottlenecks with squeeze-excite, of 128, 256, ... channels, each of which halves the side again,
    a final layer of four times the last unit's channels, global pooling, classifier. All blocks of
    a unit give out the same channels, so that one classifier serves all subnets.

    Args:
        num_units: Units; at least 1.
        in_channels: Channels of the images.
        num_classes: Outputs of the classifier.
        max_width: Largest expand ratio; half of it is the other one (from 2 on).
        max_depth: Most blocks of a unit; one fewer is the other choice (from 2 on).
        max_kernel_size: Largest kernel; the other is smaller by two (from 5 on).
        resolutions: Input sides in pixels, ascending.
        dropout: Dropout rate before the classifier.

    Raises:
        ConfigError: If there is no unit.

    Source: the names, and the space of eight subnets, of a public re-implementation of
    Cai et al., *Once-for-All*, ICLR 2020; the widths are ours.
    """
    if num_units < 1:
        raise ConfigError(f"num_units {num_units} is below 1")
    width = 128
    smaller = max_width / 2
    widths = (int(smaller) if smaller == int(smaller) else smaller, max_width)
    return MBConvSpec(
        num_classes=num_classes,
        in_channels=in_channels,
        resolutions=resolutions,
        is_uniform=True,
        stem_width=32,
        stem_stride=1,
        fixed_block=FixedBlock(width=64, stride=2),
        stages=tuple(
            MBConvStage(
                width=width * 2**unit,
                stride=2,
                activation="relu",
                squeeze_excite=True,
                num_blocks=max_depth,
                depths=(max_depth - 1, max_depth) if max_depth > 1 else (1,),
                kernel_sizes=(
                    (max_kernel_size - 2, max_kernel_size)
                    if max_kernel_size > 3
                    else (max_kernel_size,)
                ),
                expand_ratios=widths if max_width >= 2 else (max_width,),
            )
            for unit in range(num_units)
        ),
        expand_width=4 * width * 2 ** (num_units - 1),
        dropout=dropout,
    )


def dense_images(
    *,
    block: BlockKind = "residual",
    num_classes: int,
    resolutions: tuple[int, ...] = (24, 28, 32),
    widths: tuple[int, ...] = (16, 64, 128),
    strides: tuple[int, ...] = (1, 2, 2),
    depths: tuple[int, ...] = (1, 2),
    expand_ratios: tuple[float, ...] = (0.25, 0.5, 1.0),
    width_mults: tuple[float, ...] = (),
    stem_width: int = 16,
    stem_stride: int = 1,
    divisor: int = 8,
    dropout: float = 0.0,
) -> MBConvSpec:
    """Return a supernet of dense 3x3 convolutions, which processors train and run fastest.

    Elastic in depth, middle width and resolution; output widths are rigid unless ``width_mults``
    has several.

    Args:
        block: ``residual``: two 3x3 convolutions, ratios of the middle to the output width; or
            ``fused_mbconv``: 3x3 expansion and 1x1 projection, ratios of the middle to the input.
        num_classes: Outputs of the classifier.
        resolutions: Input sides in pixels, ascending.
        widths: Output channels of each stage.
        strides: Stride of each stage's first block.
        stem_stride: Stride of the stem; 2 from about 48 pixels on.
    """
    return MBConvSpec(
        num_classes=num_classes,
        resolutions=resolutions,
        stem_width=stem_width,
        stem_stride=stem_stride,
        stem_activation="relu",
        stem_width_mults=width_mults,
        stages=tuple(
            MBConvStage(
                block=block,
                width=width,
                stride=stride,
                activation="relu",
                num_blocks=depths[-1],
                depths=depths,
                kernel_sizes=(3,),
                expand_ratios=expand_ratios,
                width_mults=width_mults,
            )
            for width, stride in zip(widths, strides, strict=True)
        ),
        expand_width=0,
        mix_width=0,
        head_activation="relu",
        divisor=divisor,
        dropout=dropout,
    )


# Published ids; every builder takes ``num_classes``.
PUBLISHED_SUPERNETS: Mapping[str, Callable[[int], TableSpec]] = {
    "ofa_mbv3_d234_e346_k357_w1.0": lambda n: mobilenet_v3(num_classes=n, width_mult=1.0),
    "ofa_mbv3_d234_e346_k357_w1.2": lambda n: mobilenet_v3(num_classes=n, width_mult=1.2),
    "ofa_proxyless_d234_e346_k357_w1.3": lambda n: proxylessnas(num_classes=n, width_mult=1.3),
    "ofa_resnet50": lambda n: resnet50d(num_classes=n),
}


def published_spec(net_id: str, *, num_classes: int = 1000) -> TableSpec:
    """Return the stage table of a published supernet.

    Raises:
        ConfigError: If there is no such id; the nearest one is named.
    """
    if net_id not in PUBLISHED_SUPERNETS:
        near = difflib.get_close_matches(net_id, PUBLISHED_SUPERNETS, n=1, cutoff=0.0)[0]
        raise ConfigError(
            f"supernet {net_id!r} is not one of {', '.join(PUBLISHED_SUPERNETS)}; "
            f"did you mean {near}?"
        )
    return PUBLISHED_SUPERNETS[net_id](num_classes)
