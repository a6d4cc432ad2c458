"""The published ``torch.hub`` interface: the one stateful place of the library.

A :class:`HubSupernet` is a supernet that remembers which subnet is active, with the methods of the
published page; it calls the core and holds no weights of its own. Differences, on purpose: settings
are checked against the search space, and what ``get_active_subnet`` returns is in eval mode.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from onceforall.arch import PUBLISHED_WIDTH_MULTS, Arch
from onceforall.errors import ArchError
from onceforall.published_archs import arch_from_published
from onceforall.space import SearchSpace
from onceforall.supernets.published.checkpoint import load_published
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.spec import ResNetSpec
from onceforall.supernets.static import StaticNet, build
from onceforall.supernets.supernet import Supernet
from onceforall.zoo.entries import find_entry
from onceforall.zoo.load import OFFICIAL, ZooNet, load_specialized, load_supernet

Setting = int | float | Sequence[int | float | None] | None
_CONSTRAINTS = ("depth", "expand_ratio", "kernel_size")


@final
class HubSupernet(nn.Module):
    """A published supernet behind the stateful interface of the published page.

    Args:
        net: The supernet; its largest subnet is active at first.

    Attributes:
        net: The supernet.
        arch: The active subnet. Its resolution means nothing: images may have any.
        constraints: Options of an axis that random subnets have, by axis.
    """

    def __init__(self, net: Supernet) -> None:
        super().__init__()
        self.net = net
        self.arch = net.space.largest
        self.constraints: dict[str, tuple[int | float, ...]] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Run the active subnet on images ``(B, 3, H, W)``."""
        logits: Tensor = self.net(images, self.arch)
        return logits

    @property
    def runtime_depth(self) -> list[int]:
        """Return the published list of depths: MobileNets count kept blocks, ResNets dropped."""
        if not self._is_resnet:
            return list(self.arch.depth)
        stages = zip(self.net.space.stages, self.arch.depth, strict=True)
        return [stage.num_blocks - kept for stage, kept in stages]

    def set_max_net(self) -> None:
        """Make the largest subnet active."""
        self.arch = self.net.space.largest

    def set_active_subnet(self, *values: Setting, **settings: Any) -> None:
        """Make a subnet active: ``(ks, e, d)`` of a MobileNet, ``(d, e, w)`` of a ResNet50D.

        Each setting is one number for all places, a list or tuple over all places, or None to
        leave it as it is; a list may hold None likewise. Places are every physical block for
        ``ks`` (kernel sizes) and ``e`` (expand ratios), and every stage for ``d`` (depths). A
        ResNet50D has no ``ks`` but 3, ``d[0]`` is its stem switch (2 keeps the stem's residual
        convolution, 0 and 1 skip it), ``d[1:]`` counts blocks beyond the fewest, and ``w`` holds
        indices into (0.65, 0.8, 1.0).

        Args:
            values: Settings in the order above.
            settings: The same by name: kernel sizes, expand ratios, depths, indices of width
                multipliers.

        Raises:
            ArchError: If there is no such setting, or a value is not in the search space. The
                active subnet is then what it was.
        """
        current: dict[str, Any] = self._published()
        order = ("d", "e", "w") if self._is_resnet else ("ks", "e", "d")
        given = dict(zip(order, values, strict=False))
        twice = given.keys() & settings.keys()
        if len(values) > len(order) or twice:
            raise ArchError(
                f"set_active_subnet takes {', '.join(order)}, each once: "
                + (f"{min(twice)} is there twice" if twice else f"{len(values)} values are given")
            )
        given |= settings
        for name in given:
            if name not in ("ks", "e", "d", "w"):
                raise ArchError(
                    f"set_active_subnet has no setting {name!r}; it has ks (kernel sizes), e "
                    f"(expand ratios), d (depths) and w (indices of width multipliers)"
                )
        if self._is_resnet:
            kernels = given.pop("ks", None)
            if set(_merged("ks", kernels, [3] * len(current["e"]))) != {3}:
                raise ArchError(
                    f"ks {kernels}: every kernel of a ResNet50D is 3; its settings: e, d, w"
                )
        for name, value in given.items():
            if value is None:
                continue
            if name not in current:
                raise ArchError(f"{name} {value}: this network has no elastic width")
            current[name] = _merged(name, value, current[name])
        self.arch = arch_from_published(self.net.space, current)

    def set_constraint(self, include_list: Sequence[Any], constraint_type: str = "depth") -> None:
        """Draw random subnets from some options only, until `clear_constraint`.

        Args:
            include_list: Options of every place.
            constraint_type: ``depth``, ``expand_ratio`` or ``kernel_size``.

        Raises:
            ArchError: If there is no such axis or option, or there is a list for each place.
        """
        if constraint_type not in _CONSTRAINTS:
            raise ArchError(
                f"constraint_type {constraint_type!r} is not one of {', '.join(_CONSTRAINTS)}"
            )
        if any(isinstance(options, list | tuple) for options in include_list):
            raise ArchError(
                f"{constraint_type}: options of each place are not taken; sample from "
                "net.space.restrict(...) or choose with set_active_subnet"
            )
        constraints = {**self.constraints, constraint_type: tuple(include_list)}
        self._drawn_from(constraints)
        self.constraints = constraints

    def clear_constraint(self) -> None:
        """Draw random subnets from all options again."""
        self.constraints = {}

    def sample_active_subnet(self) -> dict[str, list[Any]]:
        """Make a random subnet active; return it in the published spelling.

        Draws are the published ones from Python's global generator: after ``random.seed(0)``
        both give the same subnet. The lists hold the draws of blocks that do not run, too.
        """
        space = self._drawn_from({})  # blocks that no constraint lets run are drawn as well
        self.arch = space.sample(random, self.constraints)  # type: ignore[arg-type]  # the module
        options = max((stage.depths for stage in space.stages), key=len)
        for stage in space.stages:
            if len(stage.depths) == 1 < len(options):
                random.choice(
                    self.constraints.get("depth", options)
                )  # the published code draws a rigid stage's depth as well
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

    @property
    def config(self) -> dict[str, Any]:
        """Return `get_active_net_config`; the published one of a supernet cannot be read back."""
        return self.get_active_net_config()

    def re_organize_middle_weights(self, expand_ratio_stage: int = 0) -> None:
        """Sort the middle channels of every block by importance; the largest subnet is the same.

        Args:
            expand_ratio_stage: Number of smaller expand ratios that are trained already and keep
                their channels.
        """
        self.net.sort_channels(num_opened=expand_ratio_stage)

    def published_state_dict(self) -> dict[str, Tensor]:
        """Return the supernet's tensors under their published keys."""
        return self.net.published_state_dict()

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load tensors under their published keys, of a supernet or its largest subnet, or ours.

        Published keys are all needed: the published code would keep what is missing as it is.

        Raises:
            CheckpointError: If published tensors do not fit; nothing is loaded then.
        """
        if any(key.startswith("net.") for key in state_dict):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        return load_published(self.net, state_dict)

    @property
    def _is_resnet(self) -> bool:
        return isinstance(self.net.spec, ResNetSpec)

    def _drawn_from(self, constraints: Mapping[str, Any]) -> SearchSpace:
        """Return the part of the space that random subnets come from."""
        space = self.net.space
        return space.restrict(resolution=space.resolutions[-1:], **constraints)

    def _published(self) -> dict[str, list[Any]]:
        """Return the active subnet in the published spelling, blocks that do not run included."""
        arch: Arch = self.arch
        ratios = [ratio for stage in arch.expand_ratio for ratio in stage]
        if not self._is_resnet:
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
