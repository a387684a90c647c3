"""How the networks of tests/foreign fare: float export, two schemes, and litert-torch beside them, as a table.

    python benchmarks/foreign.py [--only PATTERN]... [--columns COLUMN]... [--others] [--output docs/foreign.md]

Every network is built, converted, counted, exported and verified in a process of its own, two at a time. Results are
kept in out/foreign until the code that made them changes, so a run that was stopped goes on where it stopped; --fresh
forgets them. `make foreign` runs all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT / "tests")  # in place of this folder, whose `foreign` is this file
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], str(ROOT)])
os.environ["OMP_NUM_THREADS"] = "1"

from foreign.check import outcome_of  # noqa: E402
from foreign.networks import NETWORKS, OTHERS, ForeignNetwork  # noqa: E402

from binmat.allocator import ENVIRONMENT  # noqa: E402

RESULTS = ROOT / "out" / "foreign"
os.environ |= ENVIRONMENT  # For the processes that are started, as the program sets itself up.
#: Imported once; the process of each network starts as a copy.
PRELOAD = [
    "foreign.torchvision_operators",
    "timm",
    "segmentation_models_pytorch",
    "larq_compute_engine",
    "foreign.check",
    "binmat.pipeline.deployment",
    "binmat.reports",
]
COLUMNS = ("float", "reactnet", "bnn", "litert-torch")
#: What each column's result depends on.
SOURCES = {
    "binmat": ("binmat/**/*.py", "model_defs/*.py", "transforms/**/*.py", "reports/*.py", "tests/foreign/check.py"),
    "litert-torch": ("tests/foreign/litert.py", "tests/foreign/*requirements.txt"),
}
SECONDS = 1800
GIB = 12


def fingerprint(network: ForeignNetwork, patterns: Iterable[str]) -> str:
    """A checksum of the sources and of the network's declaration; it changes when they do."""
    digest = hashlib.sha256(repr(network).encode())
    for file in sorted({file for pattern in patterns for file in ROOT.glob(pattern)}):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def kept(name: str, column: str, code: str) -> dict[str, Any] | None:
    """The outcome that an earlier run of the same code stored: {seconds by stage, error, place}."""
    store = RESULTS / f"{name}.{column}.json"
    outcome = json.loads(store.read_text()) if store.exists() else None
    return outcome if outcome and outcome["code"] == code else None


def check_in_child(name: str, column: str, result: Path, log: Path) -> None:
    """Runs in a process of its own: put the network through its stages."""
    resource.setrlimit(resource.RLIMIT_AS, (GIB * 2**30, GIB * 2**30))
    with log.open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    result.write_text(json.dumps(outcome_of(name, column)))


def run(name: str, column: str, code: str, litert: Path) -> dict[str, Any]:
    """The outcome of one network in one column, stored for later runs."""
    known = kept(name, column, code)
    if known is not None:
        return known
    store, result, log = (RESULTS / f"{name}.{column}.{suffix}" for suffix in ("json", "part", "log"))
    result.unlink(missing_ok=True)
    if column == "litert-torch":
        with log.open("w") as output:
            child = subprocess.Popen(
                [litert / "bin/python", "-m", "foreign.litert", name, result], stdout=output, stderr=output
            )
            try:
                status = child.wait(SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                status = None
    else:
        process = multiprocessing.get_context("forkserver").Process(
            target=check_in_child, args=(name, column, result, log)
        )
        process.start()
        process.join(SECONDS)
        status = process.exitcode
        process.kill()
    if status is None:
        outcome = {"seconds": {}, "error": f"stopped after {SECONDS} s"}
    elif status:
        said = (log.read_text().strip().splitlines() or ["nothing"])[-1]
        outcome = {"seconds": {}, "error": f"the process ended with status {status}: {said}"}
    else:
        outcome = json.loads(result.read_text())
        result.unlink()
    store.write_text(json.dumps(outcome | {"code": code}))
    return outcome


def verdict(column: str, outcome: dict[str, Any]) -> str:
    """What stands in the table: "ok", or the stage that failed."""
    if "error" not in outcome:
        return "ok"
    stages = ("build", "convert", "count", "export", "verify")
    if column == "litert-torch":
        stages = ("convert", "run")
    elif column == "float":
        stages = ("build", "count", "export", "verify")
    return next((stage for stage in stages if stage not in outcome["seconds"]), "?")


def document(networks: Sequence[ForeignNetwork], outcomes: dict[tuple[str, str], dict[str, Any]], litert: Path) -> str:
    """The page: what was run, the table, and every failure's message."""
    absent = dict.fromkeys(COLUMNS, "not run") | ({} if litert.exists() else {"litert-torch": "not installed"})
    rows, failures = [], []
    passed = dict.fromkeys(COLUMNS, 0)
    for network in networks:
        row = [network.package, network.label, "{}x{}".format(*network.size)]
        for column in COLUMNS:
            outcome = outcomes.get((network.name, column))
            said = absent[column] if outcome is None else verdict(column, outcome)
            row.append(said)
            passed[column] += said == "ok"
            if outcome is not None and "error" in outcome:
                where = f" ({outcome['place']})" if outcome.get("place") else ""
                failures.append(f"- {network.name}, {column}, {said}: {outcome['error']}{where}")
        seconds = sum(outcomes.get((network.name, "reactnet"), {"seconds": {}})["seconds"].values())
        rows.append([*row, f"{seconds:.0f}"])
    rows.append(["", "**of " + str(len(networks)) + "**", "", *(f"**{passed[column]}**" for column in COLUMNS), ""])
    headers = ["from", "network", "size", *COLUMNS, "seconds"]
    align = ("left", "left", "right", *("left" for _ in COLUMNS), "right")
    table = tabulate(rows, headers, tablefmt="github", colalign=align, disable_numparse=True)
    packages = ("torch", "torchvision", "timm", "segmentation-models-pytorch")
    return f"""# Other people's networks

`make foreign` made this page ({", ".join(f"{package} {version(package)}" for package in packages)}).

Every network has random weights and is in evaluation mode; nothing in it was changed for binmat. *float* exports the
network as it is. *reactnet* and *bnn* convert it first. All three count its operations, write the .tflite file and
verify it. *ok* means that all of it passed; otherwise the first stage that failed is named. *litert-torch* is Google's
converter of float networks: *ok* means that it wrote a file that runs. *seconds* is processor time for reactnet,
verification included.

{table}

## What failed

{chr(10).join(failures) or "Nothing."}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", help="names to run, for example 'timm.*'; others are shown as kept")
    parser.add_argument("--columns", action="append", choices=COLUMNS)
    parser.add_argument("--others", action="store_true", help="the networks beside the list instead")
    parser.add_argument("--fresh", action="store_true", help="forget the results of earlier runs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--litert", type=Path, default=ROOT / "out" / "litert-venv", help="litert-torch's environment")
    parser.add_argument("--output", type=Path, help="write the page to this file")
    options = parser.parse_args()

    networks = list((OTHERS if options.others else NETWORKS).values())
    chosen = [net for net in networks if any(fnmatch(net.name, pattern) for pattern in options.only or ["*"])]
    columns = options.columns or [column for column in COLUMNS if column != "litert-torch" or options.litert.exists()]
    code = {
        (network.name, column): fingerprint(network, SOURCES.get(column, SOURCES["binmat"]))
        for network, column in product(networks, COLUMNS)
    }
    tasks = [(network.name, column) for column in columns for network in chosen]
    if options.fresh:
        for name, column in tasks:
            (RESULTS / f"{name}.{column}.json").unlink(missing_ok=True)
    RESULTS.mkdir(parents=True, exist_ok=True)
    multiprocessing.set_forkserver_preload(PRELOAD)
    outcomes: dict[tuple[str, str], dict[str, Any]] = {}
    with ThreadPoolExecutor(options.jobs) as threads:
        running = {threads.submit(run, *task, code[task], options.litert): task for task in tasks}
        for done in as_completed(running):
            name, column = running[done]
            outcome = outcomes[name, column] = done.result()
            said = verdict(column, outcome)
            what = "" if said == "ok" else f": {outcome['error']} ({outcome.get('place')})"
            taken = sum(outcome["seconds"].values())
            print(f"[{len(outcomes)}/{len(tasks)}] {name} {column} {taken:.1f} s {said}{what}", file=sys.stderr)
    for name, column in product((network.name for network in networks), COLUMNS):
        known = outcomes.get((name, column)) or kept(name, column, code[name, column])
        if known is not None:
            outcomes[name, column] = known
    page = document(networks, outcomes, options.litert)
    if options.output:
        options.output.write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
