"""binmat networks."""

from __future__ import annotations

from typing import Any

from binmat.cli.console import Steps, print_json, print_table, say
from binmat.cli.options import JsonFlag


def networks(as_json: JsonFlag = False) -> None:
    """List the networks whose checkpoints binmat knows.

    Operations are counted at each network's usual size, which takes some seconds.

    \b
    Examples:
      binmat networks
      binmat convert matting.ckpt --network modnet -o out
    """
    found: dict[str, dict[str, Any]] = {}
    with Steps() as steps:
        steps("start, with PyTorch")
        from binmat.model_defs.registry import NETWORKS, build
        from binmat.reports import CONVENTIONS, CROSS_CHECKS, report

        for name, spec in NETWORKS.items():
            steps(f"count {name}")
            network = build(name)
            counted = report(network)
            assert counted.before is not None
            found[name] = {
                "task": spec.task,
                "inputs": spec.inputs,
                "parameters": sum(parameter.numel() for parameter in network.parameters()),
                "size": {"height": counted.height, "width": counted.width},
                "flops": {c: counted.before.counts[c].total.flops for c in CONVENTIONS} | dict(counted.cross_checks),
                "paper": spec.paper,
                "layouts": list(spec.layouts),
                "options": {
                    option.name: {"type": option.type.__name__, "help": option.help, "converts": option.converts}
                    for option in network.options
                },
            }
    if as_json:
        print_json(found)
        return
    rows = [
        [
            name,
            f"{about['parameters'] / 1e6:.2f} M",
            *(f"{flops / 1e9:.2f}" for flops in about["flops"].values()),
            f"{about['size']['height']}x{about['size']['width']}",
        ]
        for name, about in found.items()
    ]
    conventions = CONVENTIONS | CROSS_CHECKS
    print_table(["network", "parameters", *(f"{name}, G FLOPs" for name in conventions), "at"], rows)
    for name, about in found.items():
        say(f"{name}: {about['task']}")
        say(f"  inputs: {about['inputs']}", indent="    ")
        say(f"  paper: {about['paper']}", indent="    ")
        say(f"  checkpoints: {'; '.join(about['layouts'])}", indent="    ")
        for option, value in about["options"].items():
            commands = "matte and convert" if value["converts"] else "matte"
            say(f"  --option {option}={value['type'].upper()} ({commands}): {value['help']}", indent="    ")
    print()
    for convention in conventions.values():
        say(f"{convention.name}: {convention.definition}", indent="  ")
