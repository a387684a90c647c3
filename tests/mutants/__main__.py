"""A mutation test of verification: faults are injected into every step of an export, and none may pass.

    PYTHONPATH=tests python -m mutants [--only PATTERN] [--jobs N]

prints what became of each fault, and ends with 1 where one was not noticed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from multiprocessing.connection import Connection

import torch
from mutants.fault import Fault
from mutants.faults import FAULTS
from mutants.networks import SUBJECTS
from mutants.strike import CAUGHT, CRASHED, Outcome, clean_deployment, strike

#: Seconds that one fault may take.
TIME_LIMIT = 120.0
#: Characters of a message in the table.
_SHOWN = 160


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m mutants", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", default="*", help="the faults whose names match, such as 'file:*'")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many at a time")
    options = parser.parse_args()
    chosen = [fault for name, fault in FAULTS.items() if fnmatchcase(name, options.only)]
    if not chosen:
        parser.error(f"no fault is called '{options.only}'")
    start = time.monotonic()
    torch.set_num_threads(1)
    for subject in sorted({fault.subject for fault in chosen}):
        clean_deployment(subject).verify().check()
        print(f"clean: {subject} ({SUBJECTS[subject].build.__name__}) passes")
    verdicts: Counter[str] = Counter()
    with ThreadPoolExecutor(options.jobs) as pool:
        for fault, outcome in zip(chosen, pool.map(in_a_process, chosen), strict=True):
            verdicts[outcome.verdict] += 1
            print(f"{fault.place:9} {fault.subject:7} {fault.name:60} {str(outcome)[:_SHOWN]}", flush=True)
    counts = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.items())
    print(f"{len(chosen)} faults in {time.monotonic() - start:.0f} s: {counts}")
    return 0 if verdicts[CAUGHT] == len(chosen) else 1


def in_a_process(fault: Fault) -> Outcome:
    """Strike in a process of its own, which a fault may crash or hang."""
    fork = multiprocessing.get_context("fork")
    receiver, sender = fork.Pipe(duplex=False)
    process = fork.Process(target=_report, args=(fault, sender))
    process.start()
    sender.close()
    try:
        if not receiver.poll(TIME_LIMIT):
            return Outcome(CRASHED, f"took more than {TIME_LIMIT:g} s")
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        process.join()
        return Outcome(CRASHED, f"the process ended with status {process.exitcode}")
    finally:
        process.kill()
        process.join()
        receiver.close()


def _report(fault: Fault, sender: Connection) -> None:
    sender.send(strike(fault))


if __name__ == "__main__":
    sys.exit(main())
