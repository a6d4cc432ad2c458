"""Tiny networks, friendly and adversarial."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from onceforall.arch import Arch
from onceforall.supernets.graphs.elasticize import elasticize
from onceforall.supernets.graphs.masked import masked_logits
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.graphs.trace import trace

SIDE = 16


def conv(a: int, b: int, k: int = 3, s: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(a, b, k, s, k // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(b), nn.ReLU(inplace=True))


class Block(nn.Module):
    """A residual block with a depthwise kernel."""

    def __init__(self, c: int, mid: int, k: int = 5) -> None:
        super().__init__()
        self.expand = conv(c, mid, 1)
        self.depthwise = conv(mid, mid, k, groups=mid)
        self.project = nn.Sequential(nn.Conv2d(mid, c, 1, bias=False), nn.BatchNorm2d(c))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


class Body(nn.Module):
    """Stem, a body, mean, classifier."""

    def __init__(self, body: nn.Module, c: int = 16, out: int | None = None) -> None:
        super().__init__()
        self.stem = conv(3, c, 3, 2)
        self.body = body
        self.head = nn.Linear(out or c, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)).mean((2, 3)))


class SharedWeight(nn.Module):
    """The same convolution twice, of what is and is not a sum."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(16, 16, 3, padding=1)
        self.other = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.other(F.relu(self.layer(x))))


class PreActivation(nn.Module):
    """Norm and activation before each convolution; the shortcut is not activated."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        for i in (0, 2):
            y = self.layers[i](F.relu_(self.norms[i](x)))
            x = x + self.layers[i + 1](F.relu_(self.norms[i + 1](y)))
        return x


class Shuffle(nn.Module):
    """Half of the channels are convolved, then both halves are shuffled."""

    def __init__(self) -> None:
        super().__init__()
        self.a = conv(8, 8)
        self.b = nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(x)
        left, right = x.chunk(2, dim=1)
        x = torch.cat([left, self.a(right)], dim=1)
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


class Multiplier(nn.Module):
    """A depthwise convolution with three outputs for each input, and groups of four."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Conv2d(16, 48, 5, padding=2, groups=16)
        self.grouped = nn.Conv2d(48, 32, 3, padding=1, groups=4)
        self.last = nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.grouped(F.relu(self.deep(x)))))


class Attention(nn.Module):
    """Patches, two transformer blocks with a class token, heads of 4 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 24))
        self.place = nn.Parameter(torch.randn(1, 17, 24))
        self.blocks = nn.ModuleList(AttentionBlock() for _ in range(3))
        self.norm = nn.LayerNorm(24)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.place
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


class AttentionBlock(nn.Module):
    """Attention and a perceptron, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(24), nn.LayerNorm(24)
        self.qkv, self.proj = nn.Linear(24, 72), nn.Linear(24, 24)
        self.mlp = nn.Sequential(nn.Linear(24, 48), nn.GELU(), nn.Linear(48, 24))

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(n, t, 3, 6, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c)
        x = x + self.proj(y)
        return x + self.mlp(self.norm2(x))


class Excite(nn.Module):
    """Squeeze-excite whose hidden width is its own."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.up(F.relu(self.down(gate))))


class Growing(nn.Module):
    """A shortcut with fewer channels than the block gives, added to the first ones or padded."""

    def __init__(self, c: int, out: int, *, pads: bool) -> None:
        super().__init__()
        self.a = conv(c, c)
        self.b = nn.Sequential(nn.Conv2d(c, out, 1, bias=False), nn.BatchNorm2d(out))
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        y, c = self.b(self.a(x)), x.shape[1]
        if self.pads:
            return y + F.pad(x, (0, 0, 0, 0, 0, y.shape[1] - c))
        return torch.cat([y[:, :c] + x, y[:, c:]], 1)


def growing(*, pads: bool) -> Body:
    """Return a network of blocks that each add channels."""
    sizes = ((16, 24), (24, 32), (32, 48))
    return Body(nn.Sequential(conv(16, 16), *(Growing(a, b, pads=pads) for a, b in sizes)), out=48)


class Curves(Body):
    """Functions that few networks have; those without a value at 0 on the logits, which stay."""

    def __init__(self) -> None:
        super().__init__(nn.Sequential(*(nn.Conv2d(16, 16, 1) for _ in range(4))))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, curve in zip(self.body, (F.mish, F.elu, F.selu, torch.square), strict=True):
            x = curve(layer(x))
        y = 1 + torch.square(self.head(x.mean((2, 3))))
        return torch.log(y) * torch.rsqrt(y) + torch.reciprocal(y)


class Concat(nn.Module):
    """Dense connections."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = conv(16, 8), conv(24, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.a(x)], 1)
        return torch.cat([self.b(x), x], 1)


class Reused(nn.Module):
    """The shortcut is read again long after its block."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(16, 32), Block(16, 32)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.blocks[1](self.blocks[0](x))
        return y * torch.sigmoid(x)


class Slopes(nn.Module):
    """A learned slope for each channel, and a norm of groups."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.prelu = nn.Conv2d(16, 32, 1), nn.PReLU(32)
        self.norm, self.back = nn.GroupNorm(4, 32), nn.Conv2d(32, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.back(self.norm(self.prelu(self.layer(x))))


class FlatHead(nn.Module):
    """A classifier on all pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(3, 16, 3, 2)
        self.norm = nn.BatchNorm1d(16 * 64)
        self.head = nn.Linear(16 * 64, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.stem(x).flatten(1)))


def friendly() -> dict[str, nn.Module]:
    """Return fresh networks that become elastic, by name."""
    return {
        "blocks": Body(nn.Sequential(Block(16, 32), Block(16, 32, 7), Block(16, 32))),
        "plain": Body(nn.Sequential(conv(16, 32), conv(32, 16))),
        "shared": Body(SharedWeight()),
        "pre_activation": Body(PreActivation()),
        "shuffle": Body(nn.Sequential(Shuffle(), Shuffle(), conv(16, 16))),
        "multiplier": Body(Multiplier()),
        "attention": Attention(),
        "excite": Body(nn.Sequential(Excite(), conv(16, 16))),
        "growing": growing(pads=False),
        "padded": growing(pads=True),
        "curves": Curves(),
        "concat": Body(Concat(), out=32),
        "reused": Body(Reused()),
        "slopes": Body(Slopes()),
        "flat": FlatHead(),
    }


def elastic(model: nn.Module) -> GraphSupernet:
    """Return a network's elastic form, with statistics that are not all alike."""
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
    return elasticize(model, torch.zeros(1, 3, SIDE, SIDE))


def shuffled(net: GraphSupernet) -> GraphSupernet:
    """Give every group a random order, so that kept channels are not the first ones."""
    generator = torch.Generator().manual_seed(3)
    orders = [torch.randperm(group.units, generator=generator) for group in net.spec.groups]
    net.order.copy_(torch.cat(orders))
    return net


def masked(net: GraphSupernet, model: nn.Module, arch: Arch, images: Tensor) -> Tensor:
    """Return what a subnet must compute, in float64."""
    keep, start = {}, 0
    for number, (group, count) in enumerate(zip(net.spec.groups, net.spec.kept(arch), strict=True)):
        keep[number] = torch.zeros(group.units, dtype=torch.bool)
        keep[number][net.order[start : start + group.units][:count]] = True
        start += group.units
    program = trace(model, torch.zeros(1, *images.shape[1:]))
    return masked_logits(program, net.spec, arch, images, keep=keep)
