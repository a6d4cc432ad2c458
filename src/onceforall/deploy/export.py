"""A shipped model in other forms, each checked against the original before it is written."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from onceforall.deploy.model_folder import (
    MAX_RELATIVE_ERROR,
    onnx_relative_error,
    probe_images,
    read_model,
)
from onceforall.errors import ConfigError, VerificationError
from onceforall.files import check_writable, write_bytes, write_json
from onceforall.reading import MAX_BINARY_BYTES, read_bounded
from onceforall.supernets.nets import PlainNet
from onceforall.supernets.published.config_write import config_from_blueprint
from onceforall.supernets.static import StaticNet

FORMS = ("onnx", "torchscript", "pt2", "published", "config")


def export_model(folder: Path, out: Path, *, form: str) -> float | None:
    """Write the model in ``folder`` to ``out``.

    Args:
        folder: Folder of a shipped model.
        out: File to write, atomically.
        form: ``onnx``, ``torchscript``, ``pt2`` (``torch.export``), ``published`` (a
            ``torch.save`` file with the published key names) or ``config`` (the published
            ``net.config`` JSON).

    Returns:
        The largest relative difference to the original's logits on random images; None for
        forms that do not compute.

    Raises:
        ConfigError: If the folder is no model, the form unknown, or ``out`` cannot be written.
        VerificationError: If the model was changed since it shipped, or the exported one computes
            something else; nothing is written.
    """
    if form not in FORMS:
        raise ConfigError(f"--format {form!r} is not one of {', '.join(FORMS)}")
    if not (folder / "card.json").is_file():
        raise ConfigError(f"{folder} has no card.json: not a model folder, or not finished")
    check_writable(out)
    card, model = read_model(folder)
    if form in ("published", "config") and not isinstance(model, StaticNet):
        raise ConfigError(
            f"--format {form} is for published families; {folder.name} is a traced network"
        )
    images = probe_images(card, most=2)
    if form == "config":
        # The published files leave these to a second file; without them nobody can evaluate.
        assert isinstance(model, StaticNet)  # others were refused
        inputs = card.model_dump(mode="json", include={"resolution", "mean", "std", "crop_ratio"})
        write_json(out, {**config_from_blueprint(model.plan), **inputs})
        return None
    if form == "onnx":
        with torch.no_grad():
            error = onnx_relative_error(folder / "model.onnx", images, model(images))
        _check(error, form, folder)
        write_bytes(out, read_bounded(folder / "model.onnx", MAX_BINARY_BYTES))
        return error
    data, run = _WRITERS[form](model, images)
    with torch.no_grad():
        expected = model(images)
        difference = (run(images) - expected).abs().max() / expected.abs().max()
    error = float(difference)
    _check(error, form, folder)
    write_bytes(out, data)
    return error


def _check(error: float, form: str, folder: Path) -> None:
    if not error <= MAX_RELATIVE_ERROR:
        raise VerificationError(f"{form} export of {folder.name} is off by {error:.2g} relative")


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
