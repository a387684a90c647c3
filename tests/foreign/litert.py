"""What litert-torch makes of a foreign network. Runs in an environment of its own, without binmat.

    python -m foreign.litert NAME RESULT

converts the float network, runs the file, and writes to RESULT, as JSON, the seconds by stage and the error if there is
one.
"""

from __future__ import annotations

import json
import sys
import sysconfig
import time
from pathlib import Path

import litert_torch
import torch
from foreign.networks import NETWORKS, OTHERS


def main() -> None:
    foreign = (NETWORKS | OTHERS)[sys.argv[1]]
    network, images = foreign.build(), foreign.images()
    seconds: dict[str, float] = {}
    outcome: dict[str, object] = {"seconds": seconds}
    try:
        started = time.perf_counter()
        model = litert_torch.convert(network, images)
        seconds["convert"] = round(time.perf_counter() - started, 2)
        started = time.perf_counter()
        model(*images)
        seconds["run"] = round(time.perf_counter() - started, 2)
    except Exception as error:
        text = " ".join(str(error).split()).replace(f"{sysconfig.get_path('purelib')}/", "")
        outcome["error"] = f"{type(error).__name__}: {text}"
    Path(sys.argv[2]).write_text(json.dumps(outcome))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
