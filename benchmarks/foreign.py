"""How the networks of tests/foreign fare: float export, two schemes, and litert-torch beside them, as a table.

    python benchmarks/foreign.py [--only PATTERN]... [--columns COLUMN]... [--others] [--output docs/foreign.md]

Every network is built, converted, counted, exported and verified in a process of its own, two at a time. Results are
kept in out/foreign until the code that made them changes, so a run that was stopped goes on where it stopped; --fresh
forgets them. litert-torch runs in the environment /tmp/litert-venv; `make litert` installs it there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tabulate import tabulate

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT / "tests")  # in place of this folder, whose `foreign` is this file

from foreign.networks import NETWORKS, OTHERS, ForeignNetwork  # noqa: E402

RESULTS = ROOT / "out" / "foreign"
LITERT = Path("/tmp/litert-venv/bin/python")
COLUMNS = ("float", "reactnet", "bnn", "litert-torch")
#: What each column's result depends on.
SOURCES = {
    "binmat": ("binmat/**/*.py", "model_defs/*.py", "transforms/**/*.py", "reports/*.py"),
    "litert-torch": ("tests/foreign/litert.py", "tests/foreign/litert-requirements.txt"),
}
SHARED = ("tests/foreign/networks.py", "tests/foreign/check.py", "tests/foreign/requirements.txt")
SECONDS = 900
GIB = 12


def fingerprint(patterns: Iterable[str]) -> str:
    """A checksum of the sources; it changes when they do."""
    digest = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in ROOT.glob(pattern)}):
        digest.update(str(file.relative_to(ROOT)).encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def run(name: str, column: str, code: str) -> dict[str, Any]:
    """The outcome of one network in one column: {seconds by stage, error, place}, from the store or from a process."""
    store = RESULTS / f"{name}.{column}.json"
    if store.exists():
        kept = json.loads(store.read_text())
        if kept["code"] == code:
            return kept
    if column == "litert-torch":
        command, limit = [str(LITERT), "-m", "foreign.litert", name], ""
    else:
        # Address space, not resident memory: torch maps about 3 GiB more than it uses.
        command, limit = [sys.executable, "-m", "foreign.check", name, column], f"ulimit -v {GIB * 2**20}; "
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            ["bash", "-c", f'{limit}exec "$@"', "run", *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
        lines = done.stdout.splitlines()
        if done.returncode == 0:
            outcome = json.loads(lines[-1])
        else:
            said = (done.stderr.strip().splitlines() or ["nothing"])[-1]
            outcome = {"seconds": {}, "error": f"the process ended with status {done.returncode}: {said}"}
    except subprocess.TimeoutExpired:
        outcome = {"seconds": {}, "error": f"stopped after {SECONDS} s"}
    outcome["code"] = code
    RESULTS.mkdir(parents=True, exist_ok=True)
    store.write_text(json.dumps(outcome))
    return outcome


def verdict(column: str, outcome: dict[str, Any] | None) -> str:
    """What stands in the table: "ok", or the stage that failed."""
    if outcome is None:
        return "not run"
    if "error" not in outcome:
        return "ok"
    stages = ("build", "convert", "count", "export", "verify")
    if column == "litert-torch":
        stages = ("convert", "run")
    elif column == "float":
        stages = ("build", "count", "export", "verify")
    return next((stage for stage in stages if stage not in outcome["seconds"]), "?")


def document(networks: Sequence[ForeignNetwork], outcomes: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The page: what was run, the table, and every failure's message."""
    rows, failures = [], []
    passed = dict.fromkeys(COLUMNS, 0)
    for network in networks:
        row = [network.library, network.label, "{}x{}".format(*network.size)]
        for column in COLUMNS:
            outcome = outcomes.get((network.name, column))
            said = verdict(column, outcome)
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
network as it is. *reactnet* and *bnn* convert it first. All three count its operations, write the .tflite file and verify
it. *ok* means that all of it passed; otherwise the first stage that failed is named. *litert-torch* is Google's converter
of float networks: *ok* means that it wrote a file that runs. *seconds* is for reactnet, on one core, verification
included.

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
    parser.add_argument("--output", type=Path, help="write the page to this file")
    options = parser.parse_args()

    networks = list((OTHERS if options.others else NETWORKS).values())
    chosen = [net for net in networks if any(fnmatch(net.name, pattern) for pattern in options.only or ["*"])]
    columns = [column for column in options.columns or COLUMNS if column != "litert-torch" or LITERT.exists()]
    code = {column: fingerprint((*SOURCES.get(column, SOURCES["binmat"]), *SHARED)) for column in columns}
    tasks = [(network.name, column) for column in columns for network in chosen]
    if options.fresh:
        for name, column in tasks:
            (RESULTS / f"{name}.{column}.json").unlink(missing_ok=True)
    outcomes: dict[tuple[str, str], dict[str, Any]] = {}
    with ThreadPoolExecutor(options.jobs) as threads:
        running = {threads.submit(run, name, column, code[column]): (name, column) for name, column in tasks}
        for done in as_completed(running):
            name, column = running[done]
            outcome = outcomes[name, column] = done.result()
            said = verdict(column, outcome)
            what = "" if said == "ok" else f": {outcome['error']} ({outcome.get('place')})"
            taken = sum(outcome["seconds"].values())
            print(f"[{len(outcomes)}/{len(tasks)}] {name} {column} {taken:.1f} s {said}{what}", file=sys.stderr, flush=True)
    page = document(chosen, outcomes)
    if options.output:
        options.output.write_text(page)
    else:
        print(page)


if __name__ == "__main__":
    main()
