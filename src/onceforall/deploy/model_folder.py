"""A shipped model: the folder with its files, its card, and the proof that they agree.

model.onnx           batch norm folded, input "images" (B, 3, R, R), output "logits"
model.safetensors    the plain network's tensors
arch.json            the arch
card.json            what it is, what was measured, what was checked; written last
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from onceforall.arch import Arch
from onceforall.artifacts import Card, ShippedFile
from onceforall.errors import CheckpointError, ConfigError, OnceForAllError, VerificationError
from onceforall.files import read_json, reason_of, remove_partial_files, write_bytes, write_json
from onceforall.measure.costs import count_macs, count_params, peak_activation_bytes
from onceforall.measure.onnx.model import blueprint_to_onnx, import_extra, ort_session
from onceforall.reading import MAX_BINARY_BYTES, open_regular, read_bounded
from onceforall.supernets.nets import ElasticNet, NetPlan, PlainNet, copy_statistics
from onceforall.supernets.static import memory_format
from onceforall.supernets.weights import load_plain, save_plain

MAX_RELATIVE_ERROR = 1e-4
# Networks of the same weights in the same layout are compared: the same kernels should run and
# give the same bits. Where a processor has others for a slice of a weight than for its copy, only
# the order of float32 sums differs. MobileNetV3 in unlike layouts, where every kernel is another,
# is off by up to 5e-6; a single wrong channel by a thousandth or more.
MAX_ROUNDING_ERROR = 1e-5
# What a comparison of a few images may take.
_MOST_BYTES = 2**30
_FILES = ("model.onnx", "model.safetensors", "arch.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checks:
    """What was compared, on the same images.

    Attributes:
        extracted_bitwise: The plain network gives the supernet's very bits; None where it has
            weights of its own.
        extracted_relative_error: Largest difference of its logits over the largest logit.
        safetensors_bitwise: The network read back from its file gives the same bits.
        safetensors_relative_error: Largest difference of its logits over the largest logit.
        onnx_relative_error: Largest difference of ONNX Runtime's logits over the largest logit.
        depends_on_input: Different images give different logits, so the comparison means
            something.
    """

    extracted_bitwise: bool | None
    extracted_relative_error: float | None
    safetensors_bitwise: bool
    safetensors_relative_error: float
    onnx_relative_error: float
    depends_on_input: bool

    def problem(self) -> str | None:
        """Say what failed, or return None."""
        if not self.depends_on_input:
            return "the logits do not depend on the image"
        error = self.extracted_relative_error
        if error is not None and not (self.extracted_bitwise or error <= MAX_ROUNDING_ERROR):
            return (
                f"the extracted network differs from the supernet by {error:.2g} relative "
                f"(allowed {MAX_ROUNDING_ERROR:g})"
            )
        if not (self.safetensors_bitwise or self.safetensors_relative_error <= MAX_ROUNDING_ERROR):
            return (
                "model.safetensors differs from the supernet by "
                f"{self.safetensors_relative_error:.2g} relative (allowed {MAX_ROUNDING_ERROR:g})"
            )
        if not self.onnx_relative_error <= MAX_RELATIVE_ERROR:
            return (
                f"model.onnx is off by {self.onnx_relative_error:.2g} relative "
                f"(allowed {MAX_RELATIVE_ERROR:g})"
            )
        return None


def export_files(folder: Path, model: PlainNet, plan: NetPlan, arch: Arch) -> None:
    """Write the model's files, all but the card.

    Args:
        folder: Folder of the model; made if absent.
        model: Plain network in eval mode, with recalibrated statistics.
        plan: Its blueprint.
        arch: Its arch.
    """
    write_bytes(folder / "model.onnx", blueprint_to_onnx(plan, model, resolution=arch.resolution))
    save_plain(model, folder / "model.safetensors")
    write_json(folder / "arch.json", arch.to_json())


def check_files(
    folder: Path, model: PlainNet, *, net: ElasticNet, arch: Arch, images: Tensor
) -> Checks:
    """Compare supernet, plain network and both files on ``images``, on the processor.

    Weights and images of all PyTorch networks lie in memory as the supernet's weights do, and all
    have the batch-norm statistics of ``model``: computed again, perhaps on a GPU, they would be
    other ones in the last bits.

    Args:
        folder: Folder that :func:`export_files` wrote.
        model: The plain network that it was given.
        net: The supernet it came from; not changed.
        arch: The model's arch.
        images: Normalised images ``(B, 3, R, R)``, at least two.
    """
    whole = copy.deepcopy(net).cpu().eval()
    copy_statistics(whole, arch, model)
    extracted = whole.extract(arch)
    images = images.contiguous(memory_format=memory_format(whole))
    with torch.no_grad():
        expected, logits = whole(images, arch), extracted(images)
    return _compare(folder, model.plan, images=images, expected=expected, extracted=logits)


def check_plain_files(folder: Path, model: PlainNet, *, images: Tensor) -> Checks:
    """Compare a network that is no longer part of a supernet with its files, on ``images``."""
    images = images.contiguous(memory_format=memory_format(model))
    with torch.no_grad():
        expected = model.eval()(images)
    return _compare(folder, model.plan, images=images, expected=expected)


def _compare(
    folder: Path,
    plan: NetPlan,
    *,
    images: Tensor,
    expected: Tensor,
    extracted: Tensor | None = None,
) -> Checks:
    """Compare logits, and those of both files, with the expected ones.

    Args:
        folder: Folder of the files.
        plan: NetPlan of the model.
        images: Images; their layout is the one that the weights of the file get.
        expected: Logits that are right.
        extracted: Logits of the network cut out of a supernet, whose logits are expected.
    """
    layout = torch.contiguous_format if images.is_contiguous() else torch.channels_last
    reloaded = load_plain(plan, folder / "model.safetensors").to(memory_format=layout)
    with torch.no_grad():
        read_back = reloaded(images)
    return Checks(
        extracted_bitwise=None if extracted is None else torch.equal(expected, extracted),
        extracted_relative_error=(
            None if extracted is None else relative_error(extracted, expected)
        ),
        safetensors_bitwise=torch.equal(expected, read_back),
        safetensors_relative_error=relative_error(read_back, expected),
        onnx_relative_error=_file_error(folder / "model.onnx", images, expected),
        depends_on_input=bool(expected.std(dim=0).max() > 1e-6 * expected.abs().max()),
    )


def onnx_relative_error(data: bytes, images: Tensor, expected: Tensor, *, name: str) -> float:
    """Return the largest difference of ONNX Runtime's logits, over the largest logit.

    Args:
        data: The ONNX model.
        images: Input ``(B, 3, R, R)``.
        expected: Logits ``(B, classes)``.
        name: Of the model, for messages.

    Raises:
        VerificationError: If it does not run the model, or gets something else than logits.
    """
    import_extra("onnxruntime", "onnx")
    try:
        session = ort_session(data)
        (logits,) = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
    except Exception as error:  # the runtime's own kinds, which share no root
        said = " ".join(str(error).split())[:200]
        raise VerificationError(f"{name} cannot be run: {said}") from error
    if logits.shape != tuple(expected.shape):
        raise VerificationError(f"{name} gives {logits.shape}, not {tuple(expected.shape)}")
    return relative_error(torch.from_numpy(logits), expected)


def _file_error(path: Path, images: Tensor, expected: Tensor) -> float:
    data = read_bounded(path, MAX_BINARY_BYTES)
    return onnx_relative_error(data, images, expected, name=str(path))


def probe_images(card: Card, *, most: int = 8) -> Tensor:
    """Return random images to compare two forms of a model on, ``(B, 3, R, R)``."""
    return random_images(card.blueprint, resolution=card.resolution, name=card.name, most=most)


def random_images(plan: NetPlan, *, resolution: int, name: str, most: int = 8) -> Tensor:
    """Return random images to compare two forms of a network on, ``(B, 3, R, R)``.

    Raises:
        VerificationError: If two of them need more memory than a model may take.
    """
    one_bytes = peak_activation_bytes(plan, resolution=resolution)
    if 2 * one_bytes > _MOST_BYTES:
        raise VerificationError(f"{name}: one image needs {one_bytes:,} bytes of activations")
    count = max(2, min(most, _MOST_BYTES // one_bytes))
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, resolution, resolution, generator=generator)


def relative_error(logits: Tensor, expected: Tensor) -> float:
    """Return the largest difference of logits, over the largest expected logit."""
    return float((logits - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


@contextlib.contextmanager
def finished_or_removed(*folders: Path) -> Iterator[None]:
    """Remove those model folders that have no card when the block ends, whatever ends it."""
    try:
        yield
    finally:
        for folder in folders:
            remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove the files of a model folder that has no card: nothing of it is proven."""
    if not folder.is_dir() or (folder / "card.json").is_file():
        return
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    remove_partial_files(folder)
    with contextlib.suppress(OSError):  # somebody else's file lies there too
        folder.rmdir()


def write_card(folder: Path, plan: NetPlan, checks: Checks, facts: Mapping[str, Any]) -> Card:
    """Write ``card.json``, which makes the model complete, and return it.

    Args:
        folder: Folder of the model.
        plan: NetPlan of the model.
        checks: What was compared.
        facts: Everything else the card says (figures, classes, provenance).

    Raises:
        VerificationError: If a check failed; there is no card then.
    """
    problem = checks.problem()
    if problem is not None:
        raise VerificationError(f"{folder.name}: {problem}")
    if unknown := facts.keys() - Card.model_fields.keys():
        raise TypeError(f"artifacts.Card has no field {min(unknown)!r}")
    files = {name: _shipped_file(folder / name) for name in _FILES}
    compared = {name: found for name, found in asdict(checks).items() if found is not None}
    card = Card(**facts, files=files, checks=compared, blueprint=plan)
    card.write(folder / "card.json")
    return card


def _shipped_file(path: Path) -> ShippedFile:
    with open_regular(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return ShippedFile(bytes=file.tell(), sha256=digest)


def read_model(folder: Path) -> tuple[Card, PlainNet]:
    """Return the card of a shipped model and its plain network, whose files are as they shipped.

    Raises:
        VerificationError: If a file is missing or was changed.
    """
    if not (folder / "card.json").is_file():
        raise VerificationError(f"{folder} has no card.json: not a model folder, or not finished")
    try:
        card = Card.read(folder / "card.json")
    except CheckpointError as error:
        raise VerificationError(str(error)) from error
    if set(card.files) != set(_FILES):
        raise VerificationError(f"{folder / 'card.json'} does not name {', '.join(_FILES)}")
    for name, record in card.files.items():
        path = folder / name
        try:
            found = _shipped_file(path)
        except FileNotFoundError as error:
            raise VerificationError(f"{path} is missing") from error
        except OSError as error:
            raise VerificationError(f"{path}: {reason_of(error)}") from error
        if found != record:
            raise VerificationError(f"{path} was changed: its SHA-256 is not the card's")
    try:
        _check_agreement(folder, card)
        return card, load_plain(card.blueprint, folder / "model.safetensors")
    except OnceForAllError as error:
        raise VerificationError(f"{folder}: {error}") from error


def _check_agreement(folder: Path, card: Card) -> None:
    """Compare what a card says more than once.

    Raises:
        VerificationError: If it does not say the same.
    """
    arch = Arch.from_json(read_json(folder / "arch.json"))
    classes, outputs = len(card.classes), card.blueprint.num_classes
    if arch != card.arch:
        raise VerificationError(f"card.json is of {card.arch}, arch.json of {arch}")
    if arch.resolution != card.resolution:
        raise VerificationError(f"resolution {card.resolution}, but its arch is of {arch}")
    if classes != outputs:
        raise VerificationError(f"{classes} classes, but the network has {outputs}")


def verify_folder(folder: Path, *, num_images: int = 8) -> dict[str, Any]:
    """Prove a shipped model again: its files are as written and compute the same.

    Random images of the card's resolution go through both files; MACs and parameters are counted
    again.

    Args:
        folder: Folder of a model.
        num_images: Images to compare on, at least 2; fewer where they take much memory.

    Returns:
        ``{"name", "onnx_relative_error"}``.

    Raises:
        VerificationError: If a file is missing, changed, or computes something else, or the card
            says something that is not so.
    """
    card, model = read_model(folder)
    counted = {
        "macs": count_macs(card.blueprint, resolution=card.resolution),
        "params": count_params(card.blueprint),
        "peak_activation_bytes": peak_activation_bytes(card.blueprint, resolution=card.resolution),
    }
    for name, value in counted.items():
        if getattr(card, name) != value:
            raise VerificationError(
                f"{folder / 'card.json'}: {name} {getattr(card, name)}, but it has {value}"
            )
    images = probe_images(card, most=num_images)
    with torch.no_grad():
        off = _file_error(folder / "model.onnx", images, model(images))
    if not off <= MAX_RELATIVE_ERROR:
        raise VerificationError(
            f"{folder / 'model.onnx'} is off by {off:.2g} relative (allowed {MAX_RELATIVE_ERROR:g})"
        )
    return {"name": card.name, "onnx_relative_error": off}


def model_folders(path: Path) -> list[Path]:
    """Return the model folders that ``path`` means: itself, or all models of a run.

    Raises:
        ConfigError: If there is none.
    """
    if (path / "card.json").is_file():
        return [path]
    inside = path / "models" if (path / "models").is_dir() else path
    found = sorted(card.parent for card in inside.glob("*/card.json")) if inside.is_dir() else []
    if not found:
        raise ConfigError(f"{path} is neither a model folder (no card.json) nor a run with models")
    return found
