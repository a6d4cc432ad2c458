"""The published ``torch.hub`` interface: the one stateful place of the library.

A :class:`HubSupernet` is a supernet that remembers which subnet is active, with the methods of the
published page; it calls the core and holds no weights of its own. Differences, on purpose: settings
are checked against the search space, and what ``get_active_subnet`` returns is in eval mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, final

from torch import Tensor, nn

from onceforall.arch import PUBLISHED_WIDTH_MULTS, Arch
from onceforall.errors import ArchError
from onceforall.published_archs import arch_from_published
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.spec import ResNetSpec
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet
from onceforall.zoo.entries import find_entry
from onceforall.zoo.load import OFFICIAL, ZooNet, load_specialized, load_supernet

Setting = int | float | Sequence[int | float | None] | None


@final
class HubSupernet(nn.Module):
    """A published supernet behind the stateful interface of the published page.

    Args:
        net: The supernet; its largest subnet is active at first.

    Attributes:
        net: The supernet.
        arch: The active subnet. Its resolution means nothing: images may have any.
    """

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net
        self.arch = net.space.largest

    def forward(self, images: Tensor) -> Tensor:
        """Run the active subnet on images ``(B, 3, H, W)``."""
        logits: Tensor = self.net(images, self.arch)
        return logits

    @property
    def runtime_depth(self) -> list[int]:
        """Return the published list of depths: MobileNets count kept blocks, ResNets dropped."""
        if not isinstance(self.net.spec, ResNetSpec):
            return list(self.arch.depth)
        stages = zip(self.net.space.stages, self.arch.depth, strict=True)
        return [stage.num_blocks - kept for stage, kept in stages]

    def set_max_net(self) -> None:
        """Make the largest subnet active."""
        self.arch = self.net.space.largest

    def set_active_subnet(
        self,
        *,
        ks: Setting = None,
        e: Setting = None,
        d: Setting = None,
        w: Setting = None,
        **unknown: object,
    ) -> None:
        """Make a subnet active.

        Each setting is one number for all places, a list or tuple over all places, or None to
        leave it as it is; a list may hold None likewise. Places are every physical block for
        ``ks`` (kernel sizes) and ``e`` (expand ratios), and every stage for ``d`` (depths). A
        ResNet50D has no ``ks`` but 3, ``d[0]`` is its stem switch (2 keeps the stem's residual
        convolution, 0 and 1 skip it), ``d[1:]`` counts blocks beyond the fewest, and ``w`` holds
        indices into (0.65, 0.8, 1.0).

        Args:
            ks: Kernel sizes.
            e: Expand ratios.
            d: Depths.
            w: Indices of width multipliers.
            unknown: Anything else is an error.

        Raises:
            ArchError: If there is no such setting, or a value is not in the search space. The
                active subnet is then what it was.
        """
        if unknown:
            raise ArchError(
                f"set_active_subnet has no setting {next(iter(unknown))!r}; it has ks (kernel "
                f"sizes), e (expand ratios), d (depths) and w (indices of width multipliers)"
            )
        current: dict[str, Any] = self._published()
        if ks is not None and "ks" not in current:
            if any(kernel not in (None, 3) for kernel in _merged("ks", ks, current["e"])):
                raise ArchError(f"ks {ks}: every kernel of a ResNet50D is 3; its settings: e, d, w")
            ks = None
        for name, value in (("ks", ks), ("e", e), ("d", d), ("w", w)):
            if value is None:
                continue
            if name not in current:
                raise ArchError(f"{name} {value}: this network has no elastic width")
            current[name] = _merged(name, value, current[name])
        self.arch = arch_from_published(self.net.space, current)

    def sample_active_subnet(self) -> dict[str, list[Any]]:
        """Make a random subnet active; return it in the published spelling.

        Draws are the published ones from Python's global generator: after ``random.seed(0)``
        both give the same subnet. The lists hold the draws of blocks that do not run, too.
        """
        space = self.net.space.restrict(resolution=self.net.space.resolutions[-1:])
        self.arch = space.sample(random)  # type: ignore[arg-type]  # the module has the methods
        options = max((stage.depths for stage in space.stages), key=len)
        for stage in space.stages:
            if len(stage.depths) == 1 < len(options):
                random.choice(options)  # the published code draws a rigid stage's depth as well
        return self._published()

    def get_active_subnet(self, preserve_weight: bool = True) -> StaticNet:
        """Return a plain copy of the active subnet, in eval mode.

        Recalibrate its batch norms before trusting its accuracy; ``.train()`` gives the published
        mode.

        Args:
            preserve_weight: Copy the supernet's weights; otherwise they are freshly initialised.
        """
        if preserve_weight:
            return self.net.extract(self.arch)
        return build(self.net.blueprint(self.arch)).eval()

    def get_active_net_config(self) -> dict[str, Any]:
        """Return the published configuration of the active subnet, ready for ``json.dumps``."""
        return config_from_blueprint(self.net.blueprint(self.arch))

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the supernet's tensors under their published keys."""
        return self.net.published_state_dict()

    def _published(self) -> dict[str, list[Any]]:
        """Return the active subnet in the published spelling, blocks that do not run included."""
        arch: Arch = self.arch
        ratios = [ratio for stage in arch.expand_ratio for ratio in stage]
        if not isinstance(self.net.spec, ResNetSpec):
            kernels = [kernel for stage in arch.kernel_size for kernel in stage]
            return {"ks": kernels, "e": ratios, "d": list(arch.depth)}
        widths = [PUBLISHED_WIDTH_MULTS.index(mult) for mult in arch.width_mult]
        return {"d": arch.to_published()["d"], "e": ratios, "w": widths}


@final
class HubSpecialized(nn.Module):
    """A published specialised network that is a module and the pair ``(network, image_size)``.

    The published page calls methods of what ``torch.hub`` returns, while the published code returns
    a pair: both ways of using it work.

    Args:
        loaded: The network with its resolution.

    Attributes:
        model: The plain network.
        image_size: Side of its input images, in pixels.
    """

    def __init__(self, loaded: ZooNet) -> None:
        super().__init__()
        self.model = loaded.model
        self.image_size = loaded.resolution
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Map normalised images ``(B, 3, H, W)`` to logits ``(B, num_classes)``."""
        logits: Tensor = self.model(images)
        return logits

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> StaticNet | int:
        return (self.model, self.image_size)[index]

    def __iter__(self) -> Iterator[StaticNet | int]:
        return iter((self.model, self.image_size))


def hub_supernet(net_id: str, pretrained: bool = True) -> HubSupernet:
    """Return a published supernet behind the published interface.

    Args:
        net_id: Published id.
        pretrained: Load the released weights, from the cache or the network.
    """
    return HubSupernet(load_supernet(net_id, OFFICIAL if pretrained else None))


def ofa_specialized(net_id: str, pretrained: bool = True) -> HubSpecialized:
    """Return a published specialised network, to be used as a module or as a pair.

    Args:
        net_id: Published id or alias.
        pretrained: Load the released weights, from the cache or the network.
    """
    name = find_entry(net_id, "specialized").id
    return HubSpecialized(load_specialized(name, OFFICIAL if pretrained else None))


def _merged(name: str, value: Any, current: list[Any]) -> list[Any]:
    """Return the setting as a list over all places, None replaced by what is active."""
    if hasattr(value, "tolist"):  # arrays and tensors
        value = value.tolist()
    values = list(value) if isinstance(value, list | tuple) else [value] * len(current)
    if len(values) != len(current):
        raise ArchError(f"{name} has {len(values)} entries where the network has {len(current)}")
    return [old if new is None else new for new, old in zip(values, current, strict=True)]
