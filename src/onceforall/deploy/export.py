"""A network in other forms, each checked against the original before it is written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from onceforall.deploy.model_folder import (
    MAX_RELATIVE_ERROR,
    onnx_relative_error,
    probe_images,
    read_model,
    relative_error,
)
from onceforall.errors import ConfigError, VerificationError
from onceforall.files import check_writable, write_bytes, write_json
from onceforall.measure.onnx.model import blueprint_to_onnx
from onceforall.reading import MAX_BINARY_BYTES, read_bounded
from onceforall.supernets.nets import PlainNet
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.static import StaticNet

FORMS = ("onnx", "torchscript", "pt2", "published", "config")


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A network to write in another form.

    Attributes:
        name: Of the network, for messages.
        model: It, in eval mode.
        images: Random images ``(B, 3, R, R)`` that both forms are compared on.
        inputs: What a configuration says of its images: ``resolution``, ``mean``, ``std``,
            ``crop_ratio``.
        onnx: Its ONNX file, where there is one.
    """

    name: str
    model: PlainNet
    images: Tensor
    inputs: Mapping[str, Any]
    onnx: bytes | None = None


def export_model(folder: Path, out: Path, *, form: str) -> float | None:
    """Write the model in ``folder`` to ``out``, as :func:`export_net` does.

    Raises:
        ConfigError: If the folder is no model, the form unknown, or ``out`` cannot be written.
        VerificationError: If the model was changed since it shipped, or the exported one computes
            something else; nothing is written.
    """
    check_form(form)
    if not (folder / "card.json").is_file():
        raise ConfigError(f"{folder} has no card.json: not a model folder, or not finished")
    check_writable(out)
    card, model = read_model(folder)
    original = Original(
        name=folder.name,
        model=model,
        images=probe_images(card, most=2),
        inputs=card.model_dump(mode="json", include={"resolution", "mean", "std", "crop_ratio"}),
        onnx=read_bounded(folder / "model.onnx", MAX_BINARY_BYTES) if form == "onnx" else None,
    )
    return export_net(original, out, form=form)


def export_net(original: Original, out: Path, *, form: str) -> float | None:
    """Write a network to ``out``, once it is known to compute the same.

    Args:
        original: The network.
        out: File to write, atomically.
        form: ``onnx``, ``torchscript``, ``pt2`` (``torch.export``), ``published`` (a
            ``torch.save`` file with the published key names) or ``config`` (the published
            ``net.config`` JSON).

    Returns:
        The largest relative difference to the original's logits on random images; None for
        forms that do not compute.

    Raises:
        ConfigError: If the form is unknown or not of this network, or ``out`` cannot be written.
        VerificationError: If the exported network computes something else; nothing is written.
    """
    check_form(form)
    check_writable(out)
    model, images = original.model, original.images
    if form in ("published", "config") and not isinstance(model, StaticNet):
        raise ConfigError(
            f"--format {form} is for published families; {original.name} is a traced network"
        )
    if form == "config":
        # The published files leave these to a second file; without them nobody can evaluate.
        assert isinstance(model, StaticNet)  # others were refused
        write_json(out, {**config_from_blueprint(model.plan), **original.inputs})
        return None
    with torch.no_grad():
        expected = model(images)
    if form == "onnx":
        data = original.onnx or blueprint_to_onnx(model.plan, model, resolution=images.shape[-1])
        error = onnx_relative_error(data, images, expected, name=f"{original.name}, as ONNX,")
    else:
        data, run = _WRITERS[form](model, images)
        with torch.no_grad():
            error = relative_error(run(images), expected)
    if not error <= MAX_RELATIVE_ERROR:
        raise VerificationError(f"{form} export of {original.name} is off by {error:.2g} relative")
    write_bytes(out, data)
    return error


def check_form(form: str) -> None:
    """Raise ConfigError if there is no such form."""
    if form not in FORMS:
        raise ConfigError(f"--format {form!r} is not one of {', '.join(FORMS)}")


Written = tuple[bytes, Callable[[Tensor], Tensor]]


def _torchscript(model: PlainNet, images: Tensor) -> Written:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # PyTorch deprecates TorchScript; whoever asks for it knows.
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(model, images), buffer)  # type: ignore[no-untyped-call]
        again = torch.jit.load(io.BytesIO(buffer.getvalue()))  # type: ignore[no-untyped-call]
    return buffer.getvalue(), again


def _pt2(model: PlainNet, images: Tensor) -> Written:
    buffer = io.BytesIO()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))
    torch.export.save(program, buffer)
    again = torch.export.load(io.BytesIO(buffer.getvalue())).module()
    return buffer.getvalue(), again


def _published(model: PlainNet, images: Tensor) -> Written:
    assert isinstance(model, StaticNet)  # others were refused
    buffer = io.BytesIO()
    torch.save({"state_dict": model.published_state_dict()}, buffer)
    return buffer.getvalue(), model


_WRITERS: dict[str, Callable[[PlainNet, Tensor], Written]] = {
    "torchscript": _torchscript,
    "pt2": _pt2,
    "published": _published,
}
