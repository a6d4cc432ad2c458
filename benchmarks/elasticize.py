"""What becomes elastic in 63 networks of torchvision and timm, and whether all of it is right.

    python benchmarks/elasticize.py --out docs/results/elasticize.csv
    python benchmarks/elasticize.py --nets torchvision:resnet18 timm:deit_tiny_patch16_224

Weights are random, nothing is downloaded. Of each network, at 224 pixels: the largest subnet is
compared with the original bit for bit; two random subnets, with random kept channels, with the
original whose channels are masked, in float64; their extracted networks with them, bit for bit;
the costs of gather tables with those counted on the extracted graphs; and the ONNX file of the
second, in ONNX Runtime, with it. Rows that are there are kept and not run again, so it can be run
in pieces, unless ``--anew`` says that they are. Exit status 1 says that a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import random
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from onceforall.encoding import Encoding
from onceforall.errors import BlueprintError, OnceForAllError
from onceforall.job.outside_nets import make_network
from onceforall.measure.cost_tables import compile_costs
from onceforall.measure.costs import count_macs, count_params
from onceforall.measure.onnx.model import blueprint_to_onnx, ort_session
from onceforall.supernets.graphs.elasticize import elasticize
from onceforall.supernets.graphs.exported import in_eval_mode
from onceforall.supernets.graphs.masked import masked_logits
from onceforall.supernets.graphs.supernet import GraphSupernet
from onceforall.supernets.graphs.trace import trace
from onceforall.supernets.nets import PlainNet

TORCHVISION = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnext50_32x4d", "wide_resnet50_2",
    "mobilenet_v2", "mnasnet1_0", "mobilenet_v3_small", "mobilenet_v3_large",
    "shufflenet_v2_x1_0", "squeezenet1_0", "densenet121", "densenet169", "efficientnet_b0",
    "efficientnet_b1", "efficientnet_v2_s", "convnext_tiny", "regnet_y_400mf", "regnet_x_400mf",
    "vgg11_bn", "vgg16", "alexnet", "googlenet", "inception_v3", "vit_b_16", "swin_t",
    "swin_v2_t", "maxvit_t",
)  # fmt: skip
TIMM = (
    "mobilenetv4_conv_small", "mobilenetv4_conv_medium", "mobilenetv4_hybrid_medium",
    "mobilenetv3_large_100", "efficientnet_lite0", "tf_efficientnetv2_b0", "repvit_m1",
    "convnextv2_atto", "deit_tiny_patch16_224", "edgenext_xx_small", "ghostnet_100",
    "ghostnetv2_100", "hardcorenas_a", "lcnet_100", "tinynet_a", "fbnetc_100", "resnet26d",
    "resnet50", "regnetz_b16", "regnety_004", "efficientvit_b0", "fastvit_t8", "mobileone_s0",
    "rexnet_100", "levit_128s", "convnext_atto", "mixnet_s", "cspresnet50", "dla34",
    "hgnetv2_b0", "mambaout_femto", "efficientformer_l1", "poolformer_s12", "starnet_s1",
)  # fmt: skip
NETS = (*(f"torchvision:{n}" for n in TORCHVISION), *(f"timm:{n}" for n in TIMM))
TRANSFORMERS = (
    "vit_b_16", "swin_t", "swin_v2_t", "maxvit_t", "mobilenetv4_hybrid_medium",
    "deit_tiny_patch16_224", "edgenext_xx_small", "efficientvit_b0", "levit_128s",
    "efficientformer_l1",
)  # fmt: skip
SIDE = 224
BARS = {"bitwise": 63, "width": 58, "depth": 52, "kernel": 26}
MEDIAN_S, CNN_S, TRANSFORMER_S = 1.0, 3.0, 8.0
MOST_ERROR = 1e-10
MOST_ONNX_ERROR = 1e-4
FIELDS = (
    "net", "groups", "coupled", "width_genes", "depth_genes", "kernel_genes", "subnets", "rigid",
    "convert_s", "largest_bitwise", "cut_error", "extracted_bitwise", "costs_exact", "onnx_error",
    "problem",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--nets", nargs="*", default=NETS, metavar="NET")
    parser.add_argument("--out", type=Path, help="CSV file to add to")
    parser.add_argument("--repeats", type=int, default=2, help="conversions to time, of each net")
    parser.add_argument("--seconds", type=float, default=1e9, help="stop after about this long")
    parser.add_argument("--anew", action="store_true", help="also networks that have a row")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = _read(arguments.out)
    started = time.monotonic()
    for name in arguments.nets:
        if (name in rows and not arguments.anew) or time.monotonic() - started > arguments.seconds:
            continue
        rows[name] = _row(name, arguments.repeats)
        print(", ".join(f"{key} {value}" for key, value in rows[name].items()), flush=True)
        _write(arguments.out, rows)
    return _judge(rows)


def _row(name: str, repeats: int) -> dict[str, Any]:
    """Return the facts of one network."""
    torch.manual_seed(0)
    model = make_network(name, num_classes=1000)
    _randomise(model)
    seconds = []
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            net = elasticize(model, torch.zeros(1, 3, SIDE, SIDE), name=name)
            seconds.append(time.perf_counter() - start)
    except OnceForAllError as error:
        return dict.fromkeys(FIELDS, "") | {"net": name, "problem": str(error)}
    axes = [gene.axis for gene in net.space.genes]
    spec = net.spec
    rng = random.Random(0)
    archs = [net.space.sample(rng) for _ in range(2)]
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), in_eval_mode(model):
        largest = torch.equal(net(images, net.space.largest), model(images))
        _shuffle(net)
        extracted = all(torch.equal(net(images, a), net.extract(a)(images)) for a in archs)
    encoding = Encoding(net.space)
    rows = encoding.from_archs(archs)
    costs = compile_costs(spec).evaluate(rows, ("macs", "params"))
    graphs = [net.extract(arch).plan for arch in archs]
    exact = costs["macs"].tolist() == [count_macs(g, resolution=SIDE) for g in graphs] and costs[
        "params"
    ].tolist() == [count_params(net.extract(arch)) for arch in archs]
    return {
        "net": name,
        "groups": len(spec.groups),
        "coupled": sum(group.coupled for group in spec.groups),
        "width_genes": axes.count("width_mult") + axes.count("expand_ratio"),
        "depth_genes": axes.count("depth"),
        "kernel_genes": axes.count("kernel_size"),
        "subnets": f"{float(net.space.size):.1e}",
        "rigid": len(spec.rigid),
        "convert_s": round(min(seconds), 2),
        "largest_bitwise": largest,
        "cut_error": f"{_cut_error(net, model, archs):.1e}",
        "extracted_bitwise": extracted,
        "costs_exact": exact,
        "onnx_error": _onnx_error(net.extract(archs[1]).eval(), images),
        "problem": "",
    }


def _onnx_error(plain: PlainNet, images: Tensor) -> str:
    """Return the largest relative difference of the ONNX file, or why there is none."""
    try:
        session = ort_session(blueprint_to_onnx(plain.plan, plain, resolution=SIDE))
    except BlueprintError as error:
        return str(error)
    with torch.no_grad():
        expected = plain(images)
    found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    return f"{float((found - expected).abs().max() / expected.abs().max()):.1e}"


def _randomise(model: nn.Module) -> None:
    """Give what is constant values of its own, so that nothing is 0 or 1 by chance."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
            if parameter.flatten()[0] == 0:
                parameter.data.normal_(0, 0.05, generator=generator)
            else:
                parameter.data.uniform_(0.5, 1.5, generator=generator)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)  # type: ignore[union-attr]
            if part.affine:
                part.weight.data.uniform_(0.5, 1.5, generator=generator)
                part.bias.data.normal_(0, 0.1, generator=generator)


def _shuffle(net: GraphSupernet) -> None:
    """Order the units of every group at random: what is kept is then not what comes first."""
    generator = torch.Generator().manual_seed(2)
    orders = [torch.randperm(group.units, generator=generator) for group in net.spec.groups]
    if orders:
        net.order.copy_(torch.cat(orders))


def _cut_error(net: GraphSupernet, model: nn.Module, archs: list[Any]) -> float:
    """Return the largest relative difference of subnets to the masked original, in float64."""
    program = trace(model, torch.zeros(1, 3, SIDE, SIDE))
    images = torch.randn(
        1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    double = net.double()
    worst = 0.0
    for arch in archs:
        expected = masked_logits(program, net.spec, arch, images, keep=_kept(net, arch))
        with torch.no_grad():
            found = double(images, arch)
        worst = max(worst, float((found - expected).abs().max() / expected.abs().max()))
    net.float()
    return worst


def _kept(net: GraphSupernet, arch: Any) -> dict[int, Tensor]:
    """Return which units of each group a subnet keeps."""
    keep, start = {}, 0
    for number, (group, count) in enumerate(zip(net.spec.groups, net.spec.kept(arch), strict=True)):
        keep[number] = torch.zeros(group.units, dtype=torch.bool)
        keep[number][net.order[start : start + group.units][:count]] = True
        start += group.units
    return keep


def _judge(rows: dict[str, dict[str, Any]]) -> int:
    """Print what the rows come to, and return the exit status."""
    done = [row for row in rows.values() if not row["problem"]]
    counts = {
        "bitwise": sum(str(row["largest_bitwise"]) == "True" for row in done),
        "width": sum(int(row["width_genes"]) > 0 for row in done),
        "depth": sum(int(row["depth_genes"]) > 0 for row in done),
        "kernel": sum(int(row["kernel_genes"]) > 0 for row in done),
    }
    wrong = [
        row["net"]
        for row in done
        if not (
            str(row["largest_bitwise"]) == str(row["extracted_bitwise"]) == "True"
            and str(row["costs_exact"]) == "True"
            and float(row["cut_error"]) <= MOST_ERROR
        )
    ]
    seconds = {row["net"]: float(row["convert_s"]) for row in done}
    slow = [
        name
        for name, each in seconds.items()
        if each > (TRANSFORMER_S if name.partition(":")[2] in TRANSFORMERS else CNN_S)
    ]
    print(f"{len(rows)} networks, {len(done)} converted: {counts}")
    if seconds:
        print(f"conversion: median {statistics.median(seconds.values()):.2f} s; slow: {slow}")
    unwritten = [row["net"] for row in done if not _is_small(row["onnx_error"])]
    print(f"no equal ONNX file: {unwritten}")
    print(f"wrong: {wrong}; refused: {[row['net'] for row in rows.values() if row['problem']]}")
    short = [name for name, bar in BARS.items() if len(rows) == len(NETS) and counts[name] < bar]
    is_slow = bool(slow) or (bool(seconds) and statistics.median(seconds.values()) > MEDIAN_S)
    return int(bool(wrong or short or is_slow))


def _is_small(error: str) -> bool:
    try:
        return float(error) <= MOST_ONNX_ERROR
    except ValueError:
        return False


def _read(path: Path | None) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    if path is not None:
        with contextlib.suppress(FileNotFoundError), path.open() as file:
            rows = {row["net"]: dict(row) for row in csv.DictReader(file)}
    return rows


def _write(path: Path | None, rows: dict[str, dict[str, Any]]) -> None:
    if path is None:
        return
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        order = [*(n for n in NETS if n in rows), *(n for n in rows if n not in NETS)]
        writer.writerows(rows[name] for name in order)


if __name__ == "__main__":
    sys.exit(main())
