"""Ends `binmat convert` at random moments and fills its disk. Nothing half written may remain, and nothing be lost.

    python tests/faults/faults.py [--kills 30] [--seed N]

After each fault: the folder holds the earlier conversion or the new one, whole, or nothing where there was nothing;
the same command, run again, gives what it gives undisturbed, and nothing temporary is left. The exit status is 1 where
any of that fails. A run is a fork of this process, so that PyTorch is imported once, and converts a small network.
A disk is filled by a limit on the size of files, by a tmpfs where user namespaces are allowed, and as /dev/full.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from small_network import write_checkpoint

from binmat.cli import main as binmat
from binmat.stage import clear_stale_stages

Contents = Mapping[str, bytes]

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
LIMITS, DISKS = 6, 6


@dataclass
class Trials:
    """A workplace: the checkpoint, what conversions of it are like undisturbed, and what was wrong so far."""

    place: Path
    old: Contents = field(default_factory=dict)
    new: Contents = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def arguments(self, scheme: str, folder: Path) -> list[str]:
        return ["convert", str(self.place / "small.pth"), "--scheme", scheme, "--size", "32x32", "-o", str(folder)]

    def begin(self, folder: Path, *, earlier: bool) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if earlier:
            folder.mkdir(parents=True)
            for name, content in self.old.items():
                (folder / name).write_bytes(content)

    def judge(self, folder: Path, status: int, *, earlier: bool, killed: bool) -> str:
        """What is in the folder after a fault; then run again without one. What is wrong is listed."""
        wrong = []
        if not killed and stages(folder):
            wrong.append("a stage is left")
        clear_stale_stages(folder)  # As every command does that writes or reads a conversion there.
        clear_stale_stages(folder.parent)
        found = contents(folder)
        before = self.old if earlier else {}
        what = "new" if found == self.new else "as before" if found == before else "HALF WRITTEN"
        if what == "HALF WRITTEN" or (status == 0 and what != "new"):
            wrong.append(f"status {status}, folder {what}")
        again, _ = run(self.arguments("xnor", folder))
        if again != 0 or contents(folder) != self.new or stages(folder):
            wrong.append(f"the run after it ended with {again}")
        self.faults += wrong
        return "; ".join(wrong) or what


def contents(folder: Path) -> Contents:
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}


def stages(folder: Path) -> list[Path]:
    """What is temporary in the folder or beside it."""
    return [path for place in (folder, folder.parent) if place.is_dir() for path in place.glob(".binmat-*")]


def run(
    arguments: list[str],
    moment: float | None = None,
    number: signal.Signals = signal.SIGKILL,
    limit: int | None = None,
    stdout: str = os.devnull,
) -> tuple[int, float]:
    """Run a command in a fork of this process: its exit status, negative for a signal, and the seconds that it took.

    moment: seconds after which it gets the signal. limit: bytes of the largest file that it may write.
    """
    started = time.monotonic()
    process = os.fork()
    if process == 0:
        status = 70
        try:
            for descriptor, path in ((1, stdout), (2, os.devnull)):
                os.dup2(os.open(path, os.O_WRONLY), descriptor)
            if limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            status = binmat(arguments)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            status = 130
        finally:
            os._exit(status)
    if moment is not None:
        time.sleep(moment)
        os.kill(process, number)
    _, wait_status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(wait_status), time.monotonic() - started


def kills(trials: Trials, count: int, seconds: float, chance: random.Random) -> None:
    # Two thirds SIGKILL, the others in turn; with and without an earlier conversion.
    numbers = [signal.SIGKILL if n % 3 < 2 else SIGNALS[1 + n // 3 % 3] for n in range(count)]
    for n, number in enumerate(numbers):
        earlier, share = n % 4 != 3, chance.uniform(0, 1.05)
        folder = trials.place / "kills" / "out"
        folder.parent.mkdir(exist_ok=True)
        trials.begin(folder, earlier=earlier)
        status, _ = run(trials.arguments("xnor", folder), share * seconds, number)
        if number != signal.SIGKILL and status not in (0, 128 + number):
            trials.faults.append(f"{number.name} ended with {status}")
        found = trials.judge(folder, status, earlier=earlier, killed=number == signal.SIGKILL)
        line(f"{number.name} at {share:.0%}", earlier, status, found)


def limits(trials: Trials, chance: random.Random) -> None:
    folder = trials.place / "limits" / "out"
    folder.parent.mkdir()
    for n in range(LIMITS):
        trials.begin(folder, earlier=n % 2 == 0)
        limit = chance.randrange(max(map(len, trials.new.values())))
        status, _ = run(trials.arguments("xnor", folder), limit=limit)
        if status != 1:
            trials.faults.append(f"a limit of {limit} bytes ended with {status}")
        line(f"files of at most {limit:,} bytes", n % 2 == 0, status, judged(trials, folder, status, n % 2 == 0))


def disks(trials: Trials, chance: random.Random) -> None:
    for n in range(DISKS):
        disk = trials.place / f"disk{n}"
        disk.mkdir()
        earlier = n % 2 == 0
        # A disk has pages of 4 KiB, and each file and folder takes some.
        size = pages(trials.old) * earlier + chance.randrange(1, pages(trials.new))
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={4 * size}k", "tmpfs", disk], capture_output=True, text=True
        )
        if made.returncode != 0:
            print(f"full disks: skipped, for no tmpfs can be mounted here ({made.stderr.strip()})")
            return
        trials.begin(disk / "out", earlier=earlier)
        status, _ = run(trials.arguments("xnor", disk / "out"))
        if status != 1:
            trials.faults.append(f"a disk of {4 * size} KiB ended with {status}")
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        line(f"a disk of {4 * size} KiB", earlier, status, judged(trials, disk / "out", status, earlier))
        subprocess.run(["umount", disk], check=True)


def full_output(trials: Trials) -> None:
    """A table that cannot be printed: the conversion is there all the same."""
    folder = trials.place / "out"
    trials.begin(folder, earlier=True)
    status, _ = run([*trials.arguments("xnor", folder), "--json"], stdout="/dev/full")
    found = "new" if contents(folder) == trials.new else "NOT THE NEW ONE"
    if status != 1 or found != "new":
        trials.faults.append(f"/dev/full: status {status}, folder {found}")
    line("stdout is /dev/full", True, status, found)


def judged(trials: Trials, folder: Path, status: int, earlier: bool) -> str:
    return trials.judge(folder, status, earlier=earlier, killed=False)


def pages(files: Contents) -> int:
    return sum(-(-len(content) // 4096) for content in files.values())


def line(fault: str, earlier: bool, status: int, found: str) -> None:
    print(f"{fault:<32} {'conversion' if earlier else 'nothing':<12} {status:>6}  {found}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    chance = random.Random(seed)
    torch.set_num_threads(1)  # Threads do not survive a fork.
    with tempfile.TemporaryDirectory() as place:
        trials = Trials(Path(place))
        write_checkpoint(trials.place / "small.pth")
        for scheme in ("bnn", "xnor"):
            status, seconds = run(trials.arguments(scheme, trials.place / scheme))
            if status != 0:
                sys.exit(f"an undisturbed conversion ended with {status}")
        trials.old, trials.new = contents(trials.place / "bnn"), contents(trials.place / "xnor")
        print(f"an undisturbed conversion takes {seconds:.1f} s\n")
        print(f"{'fault':<32} {'before':<12} {'status':>6}  afterwards, and after the same command again")
        kills(trials, options.kills, seconds, chance)
        limits(trials, chance)
        disks(trials, chance)
        full_output(trials)
    print(f"\n{len(trials.faults)} faults did harm{': ' * bool(trials.faults)}{', '.join(trials.faults)}")
    return 1 if trials.faults else 0


if __name__ == "__main__":
    # A user may mount a tmpfs in a namespace of their own.
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    possible = shutil.which("unshare") and subprocess.run([*own_mounts, "true"], capture_output=True).returncode == 0
    if possible and "OWN_MOUNTS" not in os.environ:
        os.execvpe(own_mounts[0], [*own_mounts, sys.executable, *sys.argv], {**os.environ, "OWN_MOUNTS": "1"})
    sys.exit(main())
