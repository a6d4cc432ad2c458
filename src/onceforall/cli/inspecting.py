"""Verbs that look and change nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from onceforall.cli.console import print_result
from onceforall.cli.options import Data, Json, OnBadImage, Root, parse_on_bad_image


def data(
    data: Data, root: Root = "", on_bad_image: OnBadImage = "refuse", json: Json = False
) -> None:
    """Open a data set and say what is in it.

    Example:  ofa data images/
    """
    bad_image = parse_on_bad_image(on_bad_image)
    from onceforall.data import open_dataset
    from onceforall.job.data import describe

    bundle = open_dataset(data, root=Path(root) if root else None, on_bad_image=bad_image)
    facts = describe(bundle, on_bad_image=bad_image)
    lines = (f"{name:12} {value}" for name, value in facts.items())
    print_result(facts, lines, as_json=json)


def inspect(
    net: Annotated[
        str,
        typer.Argument(
            metavar="NET",
            help="torchvision:NAME, timm:NAME, or module.path:function of your own",
            show_default=False,
        ),
    ],
    resolution: Annotated[
        int, typer.Option("--resolution", min=8, max=4096, help="Side of its images, in pixels")
    ] = 224,
    classes: Annotated[int, typer.Option("--classes", min=2, help="Classes")] = 1000,
    json: Json = False,
) -> None:
    """Say what is elastic in a network, and what is rigid and why.

    Example:  ofa inspect torchvision:resnet50
    """
    from onceforall.errors import ConfigError
    from onceforall.job.outside_nets import is_factory
    from onceforall.job.tasks.inspect_net import fact_lines, network_facts

    if not is_factory(net):
        raise ConfigError(f"NET {net!r} is not torchvision:NAME, timm:NAME or module.path:function")
    facts = network_facts(net, resolution=resolution, num_classes=classes)
    print_result(facts, fact_lines(facts), as_json=json)


def zoo_list(json: Json = False) -> None:
    """List the published networks.

    Example:  ofa zoo list
    """
    from onceforall.zoo.table import zoo_lines, zoo_rows

    print_result(zoo_rows(), zoo_lines(), as_json=json)


def zoo_show(
    net_id: Annotated[str, typer.Argument(metavar="ID", help="Published id or alias")],
    json: Json = False,
) -> None:
    """Show one published network.

    Example:  ofa zoo show ofa-note10-22
    """
    from onceforall.zoo.table import zoo_facts

    facts = zoo_facts(net_id)
    lines = (f"{name:16} {value}" for name, value in facts.items())
    print_result(facts, lines, as_json=json)


def zoo_verify(
    net_ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="ID...", help="Published ids or aliases; all by default"),
    ] = None,
    json: Json = False,
) -> int:
    """Recompute what is published and check what is in the cache; downloads nothing.

    Example:  ofa zoo verify
    """
    from onceforall.zoo import verify

    checks = verify(*(net_ids or ()))
    lines = [
        f"{check.status}: {check.id} {check.name} {check.expected} {check.found}"
        for check in checks
        if check.status not in ("ok", "absent")
    ]
    counts = sorted(Counter(check.status for check in checks).items())
    lines.append(", ".join(f"{count} {status}" for status, count in counts))
    print_result([asdict(check) for check in checks], lines, as_json=json)
    return int(any(check.status == "differs" for check in checks))
