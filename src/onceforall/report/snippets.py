"""Commands and code to copy: what to do with a model.

There is one block for all models; the script fills in what differs when another one is selected.
"""

from __future__ import annotations

import re
import shlex

from onceforall.report.markup import Markup, element, join
from onceforall.report.records import Model, sequence

_VERIFY = "ofa verify {shell}"

_TORCH = """\
import json
from pathlib import Path

import torch
from onceforall.blueprint import blueprint_from_json
from onceforall.supernets.weights import load_plain

folder = Path({python})
card = json.loads((folder / "card.json").read_text())
plan = blueprint_from_json(card["blueprint"])
model = load_plain(plan, folder / "model.safetensors")
# RGB images, (pixels / 255 - mean) / std
images = torch.zeros(1, 3, {side}, {side})
with torch.no_grad():
    probabilities = model(images).softmax(dim=1)
print(card["classes"][probabilities[0].argmax()])
"""

_ONNX = """\
import json
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

folder = Path({python})
card = json.loads((folder / "card.json").read_text())
session = onnxruntime.InferenceSession(folder / "model.onnx")
image = Image.open("image.png").convert("RGB")
pixels = np.asarray(image.resize(({side}, {side}))) / 255
NORMALISE
images = pixels.transpose(2, 0, 1)[None].astype(np.float32)
(logits,) = session.run(None, {"images": images})
print(card["classes"][logits[0].argmax()])
"""

_NORMALISE = 'pixels = (pixels - card["mean"]) / card["std"]'
_NO_MOMENTS = "# here: subtract the training images' mean, divide by their std"
_PLACE = re.compile(r"\{(shell|python|side)\}")


def usage(model: Model, run_name: str) -> Markup:
    """Return everything that can be copied, filled in for one model.

    Paths are relative to the folder that the run folder is in.

    Args:
        model: The model that is selected at first.
        run_name: Name of the run folder.
    """
    has_moments = len(sequence(model.card, "mean")) == len(sequence(model.card, "std")) == 3
    onnx = _ONNX.replace("NORMALISE", _NORMALISE if has_moments else _NO_MOMENTS)
    blocks = [_block("Check it again", _VERIFY, model, run_name)]
    if model.blueprint is not None:
        blocks.append(_block("Use it in Python", _TORCH, model, run_name))
    blocks.append(_block("Use it with ONNX Runtime", onnx, model, run_name))
    heading = element(
        "h2", {"id": "usage"}, "Use ", element("span", {"data-fill": "name"}, model.name)
    )
    return element(
        "section",
        {"class": "card usage", "aria-labelledby": "usage"},
        heading,
        element("div", {"class": "snippets"}, *blocks),
    )


def fill_data(model: Model, run_name: str) -> dict[str, str]:
    """Return the attributes of a model's panel that the script fills the snippets from."""
    return {f"data-{name}": value for name, value in _fills(model, run_name).items()}


def _fills(model: Model, run_name: str) -> dict[str, str]:
    path = f"{run_name}/models/{model.folder}"
    side = "SIDE" if model.resolution is None else str(model.resolution)
    return {"name": model.name, "shell": shlex.quote(path), "python": repr(path), "side": side}


def _block(title: str, template: str, model: Model, run_name: str) -> Markup:
    fills = _fills(model, run_name)
    parts = _PLACE.split(template)
    code = join(
        element("span", {"data-fill": part}, fills[part]) if place % 2 else part
        for place, part in enumerate(parts)
    )
    return element(
        "div",
        {"class": "snippet"},
        element("h3", None, title),
        element("button", {"type": "button", "class": "copy"}, "Copy"),
        element("pre", {"tabindex": 0}, element("code", None, code)),
    )
