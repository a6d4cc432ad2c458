"""Verbs that look and change nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.console import Screen, print_json
from onceforall.cli.options import (
    Data,
    Json,
    OnBadImage,
    Root,
    Seed,
    parse_numbers,
    parse_on_bad_image,
)


def data(
    data: Data, root: Root = "", on_bad_image: OnBadImage = "refuse", json: Json = False
) -> None:
    """Open a data set and say what is in it.

    Example:  ofa data images/
    """
    from onceforall.job.data import describe, open_data
    from onceforall.job.sections import DataConfig

    config = DataConfig.model_validate(
        {
            "source": data,
            "root": root,
            "on_bad_image": on_bad_image,
            "num_valid": 1,
            "num_calibration": 1,
        }
    )
    facts = describe(open_data(config))
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:12} {value}")


def evaluate(
    data: Data,
    net: Annotated[
        str,
        typer.Option(
            "--net",
            help="Published id or alias, net.config JSON, model folder, run, or supernet file",
            show_default=False,
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights file", show_default=False)
    ] = None,
    arch: Annotated[
        Path | None,
        typer.Option("--arch", help="JSON of the subnet, ours or published", show_default=False),
    ] = None,
    resolution: Annotated[
        int | None, typer.Option("--resolution", min=8, help="Input side in pixels")
    ] = None,
    seed: Seed = 0,
    calibration: Annotated[
        int, typer.Option("--calibration", min=1, help="Images that recalibrate batch norm")
    ] = 2000,
    mean: Annotated[str, typer.Option("--mean", help="Three numbers, e.g. 0.5,0.5,0.5")] = "",
    std: Annotated[str, typer.Option("--std", help="Three numbers")] = "",
    root: Root = "",
    on_bad_image: OnBadImage = "refuse",
    json: Json = False,
) -> None:
    """Measure the accuracy of any network: published, of a run, or shipped.

    Example:  ofa eval imagenet/ --net ofa_mbv3_d234_e346_k357_w1.0 --arch arch.json
    """
    means, stds = parse_numbers("--mean", mean), parse_numbers("--std", std)
    from onceforall.job.evaluate_any import EvalRequest, evaluate_request

    request = EvalRequest(
        net=net,
        weights=weights,
        arch=arch,
        resolution=resolution,
        seed=seed,
        num_calibration=calibration,
        mean=means,
        std=stds,
    )
    with Screen(quiet=json) as screen:
        result = evaluate_request(
            request,
            data,
            root=Path(root) if root else None,
            on_bad_image=parse_on_bad_image(on_bad_image),
            progress=lambda done, total: screen(
                {"event": "progress", "what": "eval", "done": done, "total": total}
            ),
        )
    if json:
        print_json(result)
        return
    print(
        f"top-1 {result['top1'] * 100:.2f} %, top-5 {result['top5'] * 100:.2f} % of "
        f"{result['images']} images at {result['resolution']} px; {result['macs'] / 1e6:.1f} M "
        f"MACs, {result['params'] / 1e6:.2f} M params; batch norm: {result['calibration']}"
    )


def zoo_list(json: Json = False) -> None:
    """List the published networks.

    Example:  ofa zoo list
    """
    from onceforall.zoo.table import zoo_lines, zoo_rows

    if json:
        print_json(zoo_rows())
        return
    for line in zoo_lines():
        print(line)


def zoo_show(
    net_id: Annotated[str, typer.Argument(metavar="ID", help="Published id or alias")],
    json: Json = False,
) -> None:
    """Show one published network.

    Example:  ofa zoo show ofa-note10-22
    """
    from onceforall.zoo.table import zoo_facts

    facts = zoo_facts(net_id)
    if json:
        print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:16} {value}")


def zoo_verify(
    net_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Published ids; all by default")
    ] = None,
    json: Json = False,
) -> int:
    """Recompute what is published and check what is in the cache; downloads nothing.

    Example:  ofa zoo verify
    """
    from onceforall.zoo import verify

    checks = verify(*(net_ids or ()))
    if json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            if check.status not in ("ok", "absent"):
                print(f"{check.status}: {check.id} {check.name} {check.expected} {check.found}")
        counts = Counter(check.status for check in checks)
        print(", ".join(f"{count} {status}" for status, count in sorted(counts.items())))
    return int(any(check.status == "differs" for check in checks))
