"""Static networks by name, as blueprints: the published baselines and the teacher.

Every function returns a :class:`Blueprint`; ``build`` makes the module.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from onceforall.blueprint import (
    Activation,
    Blueprint,
    Bottleneck,
    Conv,
    Downsample,
    GlobalPool,
    Identity,
    Layer,
    Linear,
    MaxPool,
    MBConv,
    make_divisible,
)
from onceforall.errors import BlueprintError

# One block of MobileNetV3-Large: kernel, middle width, output width, stride.
_Row = tuple[int, int, int, int]
_MOBILENET_V3: tuple[tuple[bool, Activation, tuple[_Row, ...]], ...] = (
    (False, "relu", ((3, 64, 24, 2), (3, 72, 24, 1))),
    (True, "relu", ((5, 72, 40, 2), (5, 120, 40, 1), (5, 120, 40, 1))),
    (False, "h_swish", ((3, 240, 80, 2), (3, 200, 80, 1), (3, 184, 80, 1), (3, 184, 80, 1))),
    (True, "h_swish", ((3, 480, 112, 1), (3, 672, 112, 1))),
    (True, "h_swish", ((5, 672, 160, 2), (5, 960, 160, 1), (5, 960, 160, 1))),
)


def mobilenet_v3_large(
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    dropout: float = 0.2,
    kernel_size: int | None = None,
    expand_ratio: float | None = None,
    depth: int | None = None,
    stage_widths: Sequence[int] | None = None,
) -> Blueprint:
    """Return MobileNetV3-Large, or a relative with one kernel, ratio or depth everywhere.

    With kernel 7, ratio 6, depth 4 and no dropout it is the largest subnet of the MobileNetV3
    supernet: the teacher of progressive shrinking.

    Args:
        width_mult: Multiplier of every width; the last one only grows with it.
        kernel_size: Kernel of every elastic block; by default the paper's.
        expand_ratio: Middle over input channels; by default the paper's middle widths.
        depth: Blocks of each of the five stages: the first, then copies of the last.
        stage_widths: Output channels of the five stages, before the multiplier.

    Source: Howard et al., *Searching for MobileNetV3*, ICCV 2019, table 1.
    """
    if stage_widths is not None and len(stage_widths) != len(_MOBILENET_V3):
        raise BlueprintError(f"stage_widths has {len(stage_widths)} entries where 5 are needed")
    channels = make_divisible(16 * width_mult)
    stem = Conv(in_channels=3, out_channels=channels, kernel_size=3, stride=2, activation="h_swish")
    first = MBConv(
        in_channels=channels, mid_channels=channels, out_channels=channels, kernel_size=3,
        has_expansion=False, residual=True,
    )  # fmt: skip
    blocks = [first]
    sizes = [1]
    for stage, (squeeze_excite, activation, rows) in enumerate(_MOBILENET_V3):
        rows = rows if depth is None else (rows[0], *[rows[-1]] * (depth - 1))
        sizes.append(len(rows))
        for kernel, mid, width, stride in rows:
            out = make_divisible(
                (width if stage_widths is None else stage_widths[stage]) * width_mult
            )
            if expand_ratio is None:
                mid = make_divisible(mid * width_mult)
            else:
                mid = round(channels * expand_ratio)
            blocks.append(
                MBConv(
                    in_channels=channels,
                    mid_channels=mid,
                    out_channels=out,
                    kernel_size=kernel if kernel_size is None else kernel_size,
                    stride=stride,
                    expand_ratio=mid / channels if expand_ratio is None else expand_ratio,
                    activation=activation,
                    se_channels=make_divisible(mid // 4) if squeeze_excite else 0,
                    residual=stride == 1 and channels == out,
                )
            )
            channels = out
    expanded = make_divisible(channels * 6)
    mixed = make_divisible(1280 * max(width_mult, 1.0))
    head: tuple[Layer, ...] = (
        Conv(in_channels=channels, out_channels=expanded, activation="h_swish"),
        GlobalPool(),
        Conv(in_channels=expanded, out_channels=mixed, norm=False, activation="h_swish"),
        Linear(in_features=mixed, out_features=num_classes, dropout=dropout),
    )
    return Blueprint(stem=(stem,), blocks=tuple(blocks), head=head, stage_sizes=tuple(sizes))


def mobilenet_v2(
    *,
    num_classes: int = 1000,
    width_mult: float = 1.0,
    dropout: float = 0.2,
    kernel_size: int = 3,
    expand_ratio: float = 6,
    depth: int | None = None,
) -> Blueprint:
    """Return MobileNetV2, or a relative with another kernel, ratio or depth everywhere.

    Args:
        width_mult: Multiplier of every width; the last one only grows with it.
        depth: Blocks of stages 1 to 5 of the six; by default the paper's.

    Source: Sandler et al., *MobileNetV2*, CVPR 2018, table 2.
    """
    rows = ((24, 2, 2), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1))
    depths = [n if depth is None or i == 5 else depth for i, (_, n, _) in enumerate(rows)]
    return _inverted_bottlenecks(
        stem_width=make_divisible(32 * width_mult),
        fixed_width=make_divisible(16 * width_mult),
        widths=[make_divisible(width * width_mult) for width, _, _ in rows],
        strides=[stride for _, _, stride in rows],
        kernels=[[kernel_size] * n for n in depths],
        ratios=[[expand_ratio] * n for n in depths],
        mix_width=make_divisible(1280 * max(width_mult, 1.0)),
        num_classes=num_classes,
        dropout=dropout,
    )


def proxylessnas_net(
    *,
    stem_width: int,
    fixed_width: int,
    widths: Sequence[int],
    kernels: Sequence[Sequence[int]],
    ratios: Sequence[Sequence[float]],
    mix_width: int = 1280,
    num_classes: int = 1000,
    dropout: float = 0.0,
) -> Blueprint:
    """Return a searched ProxylessNAS network from its table.

    Args:
        widths: Output channels of the six stages, whose strides are 2, 2, 2, 1, 2, 1.
        kernels: Kernel of every block, stage by stage; 0 where the search skipped the block.
        ratios: Expand ratio of every block, like ``kernels``.

    Source: Cai et al., *ProxylessNAS*, ICLR 2019, figure 4; the tables are in ``zoo``.
    """
    return _inverted_bottlenecks(
        stem_width=stem_width,
        fixed_width=fixed_width,
        widths=widths,
        strides=(2, 2, 2, 1, 2, 1),
        kernels=kernels,
        ratios=ratios,
        mix_width=mix_width,
        num_classes=num_classes,
        dropout=dropout,
    )


def _inverted_bottlenecks(
    *,
    stem_width: int,
    fixed_width: int,
    widths: Sequence[int],
    strides: Sequence[int],
    kernels: Sequence[Sequence[int]],
    ratios: Sequence[Sequence[float]],
    mix_width: int,
    num_classes: int,
    dropout: float,
) -> Blueprint:
    """Return a network of relu6 inverted bottlenecks; middle widths are rounded to integers."""
    stem = Conv(in_channels=3, out_channels=stem_width, kernel_size=3, stride=2, activation="relu6")
    blocks: list[Layer] = [
        MBConv(
            in_channels=stem_width, mid_channels=stem_width, out_channels=fixed_width,
            kernel_size=3, activation="relu6", has_expansion=False,
            residual=stem_width == fixed_width,
        )
    ]  # fmt: skip
    channels = fixed_width
    for width, stage_stride, stage_kernels, stage_ratios in zip(
        widths, strides, kernels, ratios, strict=True
    ):
        pairs = zip(stage_kernels, stage_ratios, strict=True)
        for block, (kernel, ratio) in enumerate(pairs):
            if kernel == 0:
                blocks.append(Identity())
                continue
            stride = stage_stride if block == 0 else 1
            blocks.append(
                MBConv(
                    in_channels=channels,
                    mid_channels=round(channels * ratio),
                    out_channels=width,
                    kernel_size=kernel,
                    stride=stride,
                    expand_ratio=ratio,
                    activation="relu6",
                    residual=stride == 1 and channels == width,
                )
            )
            channels = width
    return Blueprint(
        stem=(stem,),
        blocks=tuple(blocks),
        head=(
            Conv(in_channels=channels, out_channels=mix_width, activation="relu6"),
            GlobalPool(),
            Linear(in_features=mix_width, out_features=num_classes, dropout=dropout),
        ),
        stage_sizes=(1, *(len(stage) for stage in kernels)),
        norm_eps=1e-3,
    )


def resnet50(
    *, num_classes: int = 1000, expand_ratio: float = 0.25, dropout: float = 0.0
) -> Blueprint:
    """Return ResNet-50 with the stride in the 3x3 convolution.

    Source: He et al., *Deep Residual Learning*, CVPR 2016, table 1; stride as in torchvision.
    """
    stem = (Conv(in_channels=3, out_channels=64, kernel_size=7, stride=2), MaxPool())
    return _resnet(stem, (3, 4, 6, 3), expand_ratio, "conv", num_classes, dropout)


def resnet50d(
    *,
    num_classes: int = 1000,
    expand_ratio: float = 0.25,
    extra_depth: int | None = None,
    dropout: float = 0.0,
) -> Blueprint:
    """Return ResNet-50-D, with a residual convolution in the middle of the stem.

    Args:
        extra_depth: Blocks beyond (2, 2, 4, 2) in every stage, 0 or more; by default the depths
            are (3, 4, 6, 3). With 2 and ratio 0.35 it is the largest subnet of the supernet.

    Source: He et al., *Bag of Tricks*, CVPR 2019, section 4; the published supernet's stem.
    """
    depths: tuple[int, ...] = (3, 4, 6, 3)
    if extra_depth is not None:
        depths = tuple(n + extra_depth for n in (2, 2, 4, 2))
    stem = (
        Conv(in_channels=3, out_channels=32, kernel_size=3, stride=2),
        Conv(in_channels=32, out_channels=32, kernel_size=3, residual=True),
        Conv(in_channels=32, out_channels=64, kernel_size=3),
        MaxPool(),
    )
    return _resnet(stem, depths, expand_ratio, "avgpool_conv", num_classes, dropout)


def _resnet(
    stem: tuple[Layer, ...],
    depths: tuple[int, ...],
    expand_ratio: float,
    downsample: Downsample,
    num_classes: int,
    dropout: float,
) -> Blueprint:
    blocks: list[Layer] = []
    channels = 64
    for width, stride, depth in zip((256, 512, 1024, 2048), (1, 2, 2, 2), depths, strict=True):
        for block in range(depth):
            blocks.append(
                Bottleneck(
                    in_channels=channels,
                    mid_channels=make_divisible(round(width * expand_ratio)),
                    out_channels=width,
                    stride=stride if block == 0 else 1,
                    expand_ratio=expand_ratio,
                    downsample=downsample if block == 0 else "none",
                )
            )
            channels = width
    head = (
        GlobalPool(), Linear(in_features=channels, out_features=num_classes, dropout=dropout)
    )  # fmt: skip
    return Blueprint(stem=stem, blocks=tuple(blocks), head=head, stage_sizes=depths)


# Static families by name; what is trained alone, and compared with.
STATIC_FAMILIES: Mapping[str, Callable[[], Blueprint]] = {
    "mobilenet_v3_large": mobilenet_v3_large,
    "mobilenet_v2": mobilenet_v2,
    "resnet50": resnet50,
    "resnet50d": resnet50d,
}
