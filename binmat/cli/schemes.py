"""binmat schemes."""

from __future__ import annotations

from binmat.cli.options import JsonFlag


def schemes(as_json: JsonFlag = False) -> None:
    """List the binarization schemes: what a 1-bit layer computes.

    \b
    Examples:
      binmat schemes
      binmat convert rvm_mobilenetv3.pth -o out --scheme xnor \\
        --set options.input_scale_map=true
    """
    from binmat.cli.console import print_json, print_table
    from binmat.quantizers import SCHEMES

    if as_json:
        found = {
            name: {"summary": s.summary, "source": s.source, "options": s.options(), "formula": s.description}
            for name, s in SCHEMES.items()
        }
        print_json(found)
        return
    rows = [[name, scheme.summary, scheme.source] for name, scheme in SCHEMES.items()]
    print_table(("scheme", "a 1-bit layer has", "paper"), rows, align="left")
    print("Formulas, gradients and options: binmat schemes --json")
