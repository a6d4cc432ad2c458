"""Any static network in another form: a shipped model, a published network, a net.config."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from onceforall.deploy.export import Original, check_form, export_model, export_net
from onceforall.deploy.model_folder import random_images
from onceforall.errors import ConfigError
from onceforall.files import check_writable
from onceforall.zoo import find_entry, load_config_net, load_static


def export_any(net: str, out: Path, *, form: str, weights: str = "") -> float | None:
    """Write a network to ``out``, checked against the original.

    Args:
        net: Folder of a shipped model, published id or alias, or ``net.config`` JSON.
        out: File to write, atomically.
        form: As of :func:`onceforall.deploy.export.export_net`.
        weights: A file, or ``official``, the default of a published id; a model folder has its
            own.

    Returns:
        The largest relative difference to the original's logits on random images; None for
        forms that do not compute.

    Raises:
        ConfigError: If network, form, weights or ``out`` do not go together.
        CheckpointError: If the weights do not fit.
        VerificationError: If the exported network computes something else; nothing is written.
        ZooError: If there is no such id, or the official weights cannot be had.
    """
    check_form(form)
    path = Path(net)
    is_config = path.suffix == ".json"
    if not is_config and (path.exists() or "/" in net):
        if weights:
            raise ConfigError(f"{net} has weights of its own: --weights {weights} has no place")
        return export_model(path, out, form=form)
    if is_config and (not weights or weights == "official"):
        raise ConfigError(f"{net} is a configuration: --weights FILE is needed with it")
    if is_config and not path.is_file():
        raise ConfigError(f"{net}: no such file")
    if not is_config and find_entry(net).kind == "supernet":
        raise ConfigError(
            f"{net} is a supernet: first cut a network out of it, with  ofa specialize --net {net}"
        )
    if weights and weights != "official" and not Path(weights).exists():
        raise ConfigError(f"--weights {weights!r} is neither a file nor official")
    check_writable(out)
    found = load_config_net(path, weights) if is_config else load_static(net, weights or "official")
    original = Original(
        name=found.id,
        model=found.model,
        images=random_images(found.model.plan, resolution=found.resolution, name=found.id, most=2),
        inputs=dataclasses.asdict(found.preprocessing),
    )
    return export_net(original, out, form=form)
