"""The command: ``python -m fuzz [--seed N] [--only KIND] [--index I]``."""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

from fuzz.kinds import KINDS
from fuzz.runner import Tally, run, table
from fuzz.worker import damaged

#: Faults of one kind that are shown in full.
_SHOWN = 10


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Damage files and open them.")
    parser.add_argument("--seed", type=int, help="of all chance; by default another one every time")
    parser.add_argument("--only", choices=[kind.name for kind in KINDS], help="one kind of input")
    parser.add_argument("--index", type=int, help="one mutation of that kind; its file is written here")
    parser.add_argument("--share", type=float, default=1.0, help="of the mutations of a full run")
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    chosen = [kind for kind in KINDS if given.only in (None, kind.name)]
    if given.index is not None:
        if given.only is None:
            parser.error("--index needs --only")
        kind = chosen[0]
        path = Path(f"{kind.name.replace(' ', '-')}-{seed}-{given.index}")
        path.write_bytes(damaged(kind, kind.seeds(), seed, given.index))
        result = next(run(kind, [given.index], seed, workers=1))
        print(f"{path}: {result.outcome}\n{result.detail}")
        return 0
    print(f"seed {seed}", flush=True)
    tallies = []
    for kind in chosen:
        tally, started = Tally(kind.name), time.monotonic()
        for result in run(kind, range(round(kind.mutations * given.share)), seed, given.workers):
            tally.add(result)
        tallies.append(tally)
        print(f"{kind.name}: {tally.outcomes.total()} in {time.monotonic() - started:.0f} s", flush=True)
    for tally in tallies:
        for fault in tally.faults[:_SHOWN]:
            print(f"\n--seed {seed} --only '{tally.kind}' --index {fault.index}: {fault.outcome}\n{fault.detail}")
    print(f"\n{table(tallies)}\nseed {seed}")
    return 1 if any(tally.faults for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
