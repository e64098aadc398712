"""What an archive's driver does with many pictures: kills, memory, journal, workers, and what is added.

    python -m bench.archive                     10,000 small pictures, as the goals say
    python -m bench.archive --pictures 500      fewer
    python -m bench.archive --only kills        one of: kills, memory, journal, added, workers

The method is a tint, so that all time is the archive's own. Drivers are processes of their own, which are killed
(SIGKILL) as their workers are; results are compared with those of a run that nobody disturbed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from comfyui_exemplar.files.archive.finding import digest_of
from comfyui_exemplar.files.archive.folders import FolderSettings
from comfyui_exemplar.files.archive.journal import Found, Journal, Row
from comfyui_exemplar.files.archive.receipts import Outcome, read_receipts
from comfyui_exemplar.files.pictures import save_picture
from comfyui_exemplar.pipelines.archive import Item, Run, Writing
from comfyui_exemplar.pipelines.archive_pools import Processes, wait_for_workers

PICTURES, KILLS, SIMULATED, ADDED = 10_000, 3, 64, 25
MEMORY_GOAL, JOURNAL_GOAL, WORKERS_GOAL = 1.1, 2000, 1.7
WHAT = ("kills", "memory", "journal", "added", "workers")


class Tint:
    """A method that costs nothing, or some multiplications of matrices.

    :param work: how many.
    """

    at_once = 1

    def __init__(self, work: int = 0) -> None:
        self.work = work

    def __call__(self, pictures: Tensor, folder: FolderSettings) -> tuple[Tensor, list[float | None]]:
        """Tinted pictures."""
        matrix = torch.eye(256)
        for _ in range(self.work):
            matrix = matrix @ matrix
        return pictures * torch.tensor([1.0, 0.8, 0.5]), [float(each.mean()) for each in pictures]

    def out_of_memory(self, error: Exception) -> bool:
        """Never."""
        return False


class Simulated:
    """Workers that have no processes: what is left is the driver and its journal."""

    def __init__(self, size: int) -> None:
        self.size, self._given = size, deque[tuple[int, Sequence[Item]]]()

    def give(self, worker: int, items: Sequence[Item]) -> None:
        """Keep them until they are asked for."""
        self._given.append((worker, items))

    def next(self) -> tuple[int, list[Outcome] | None]:
        """The first that were given."""
        worker, items = self._given.popleft()
        return worker, [Outcome(item.number, item.content, 0.5, 0.01, thumbnail="AAAA" * 1000) for item in items]

    def close(self) -> None:
        """Nothing."""


def made(folder: Path, numbers: range) -> None:
    folder.mkdir(exist_ok=True)
    for number in numbers:
        picture = torch.full((1, 12, 12, 3), 0.5)
        picture[0, 0, :, 0] = torch.tensor([float(bit) for bit in f"{number:012b}"[-12:]])
        picture[0, 1, :, 0] = float(number >> 12) / 16
        save_picture(picture, folder / f"{number:06}.png")


def opened(source: Path, output: Path) -> Journal:
    """A journal that has looked at all pictures, as the command does."""
    output.mkdir(exist_ok=True)
    journal = Journal(output, {"method": "tint"})
    journal.open()
    chunk = []
    for path in sorted(source.iterdir()):
        known, before = path.stat(), journal.known(path.name)
        same = before is not None and before[:2] == (known.st_size, known.st_mtime_ns)
        content = before[2] if before is not None and same else digest_of(path)
        chunk.append(Found(path.name, path.name, path.name, known.st_size, known.st_mtime_ns, content, ""))
        if len(chunk) == 256:
            journal.look(chunk)
            chunk = []
    journal.look(chunk)
    wait_for_workers(journal.folder)
    journal.settle()
    return journal


def item_of(source: Path, output: Path, row: Row) -> Item:
    return Item(row.number, str(source / row.path), str(output / row.place), FolderSettings(), row.content)


def drive(source: Path, output: Path, workers: int, work: int) -> None:
    """A driver's life; it says its workers' numbers, then its peak and how many it did."""
    torch.set_num_threads(1)
    journal = opened(source, output)
    pool = Processes(workers, partial(Tint, work), Writing(str(journal.folder)))
    count, start = 0, 0.0
    print("began", *pool.process_ids, flush=True)

    def on_outcomes(outcomes: Sequence[Outcome]) -> None:
        nonlocal count, start
        start = start or time.perf_counter()
        count += len(outcomes)

    try:
        Run(journal, pool, partial(item_of, source, output), on_outcomes).work()
    finally:
        seconds = time.perf_counter() - start
        pool.close()
        journal.close()
    status = Path("/proc/self/status").read_text("ascii").splitlines()
    peak = next(line.split()[1] for line in status if line.startswith("VmHWM"))
    print("ended", peak, count, seconds, flush=True)


def driver(source: Path, output: Path, workers: int = 2, work: int = 0) -> subprocess.Popen[str]:
    arguments = ["--drive", str(source), str(output), str(workers), str(work)]
    return subprocess.Popen([sys.executable, "-m", "bench.archive", *arguments], stdout=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[float, int, float]:
    """MiB at the peak, files and seconds of a driver."""
    said, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a driver failed ({process.returncode})")
    _, peak, count, seconds = said.splitlines()[-1].split()
    return int(peak) / 1024, int(count), float(seconds)


def _kills(folder: Path, count: int) -> None:
    source, chance = folder / "in", random.Random(1)
    made(source, range(count))
    plain, output = folder / "plain", folder / "killed"
    peak, _, seconds = ended(driver(source, plain))
    kept: dict[str, int] = {}

    def keep() -> None:
        for path in output.glob("*.png"):
            kept.setdefault(path.name, path.stat().st_mtime_ns)

    done = 0
    for victim in ["worker", "driver"] * KILLS:
        target = len(kept) + count // (2 * KILLS + 2)
        process = driver(source, output)
        assert process.stdout is not None
        workers = [int(number) for number in process.stdout.readline().split()[1:]]
        while process.poll() is None and sum(1 for _ in output.glob("*.png")) < target:
            time.sleep(0.05 * chance.random())
        if victim == "worker":
            os.kill(workers[0], signal.SIGKILL)
            done += 1
            time.sleep(1.0)  # it is replaced; the driver goes on, and is then ended to be begun anew
            keep()
            process.send_signal(signal.SIGINT)
            process.wait()
        else:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        process.stdout.close()
        journal = output / ".exemplar-archive"
        wait_for_workers(journal)
        keep()
    ended(driver(source, output))
    journal = Journal(output, {"method": "tint"})
    journal.open()
    journal.run -= 1  # what the last driver saw
    tries = Counter(row.tries for row in journal.sorted_rows())
    states = journal.counts()
    receipts = Counter(each.number for each in read_receipts(journal.folder, range(1, count + 1)))
    journal.close()
    lost = sum(not (output / path.name).exists() for path in source.iterdir())
    same = sum((output / path.name).read_bytes() == (plain / path.name).read_bytes() for path in plain.glob("*.png"))
    twice = sum((output / name).stat().st_mtime_ns != when for name, when in kept.items())
    print(f"| {count} pictures, {done} kills (workers and drivers by turns) | |\n| --- | --- |")
    print(f"| states | {states} |\n| lost | {lost} |\n| the same bytes as undisturbed | {same} of {count} |")
    print(f"| results of {len(kept)} known at kills that were written again | {twice} |")
    print(f"| tries a picture, and how many have them | {dict(tries)} |")
    print(f"| pictures worked on again, cut off between receipt and name | {sum(n > 1 for n in receipts.values())} |")
    print(f"| an undisturbed run, two workers | {count / seconds:.0f} pictures a second |")
    print(f"| peak of its driver | {peak:.0f} MiB |\n")


def _memory(folder: Path, count: int) -> None:
    peaks = {}
    for number in (count // 10, count):
        source = folder / f"in-{number}"
        made(source, range(number))
        peaks[number], _, _ = ended(driver(source, folder / f"out-{number}", 1))
    (few, many) = peaks.values()
    print(
        f"| pictures | the driver's peak, MiB |\n| --- | --- |\n| {count // 10} | {few:.0f} |\n| {count} | {many:.0f} |"
    )
    print(f"\n{many / few:.3f}x (goal: at most {MEMORY_GOAL:g}x)\n")


def _journal(folder: Path, count: int) -> None:
    source, output = folder / "in-journal", folder / "out-journal"
    made(source, range(min(count, 64)))
    output.mkdir()
    journal = Journal(output, {"method": "tint"})
    journal.open()
    journal.look(Found(f"{n}.png", f"{n}.png", f"{n}.png", 1, 1, f"{n:064}", "") for n in range(count))
    journal.settle()
    run = Run(journal, Simulated(SIMULATED), partial(item_of, source, output))
    start = time.perf_counter()
    run.work()
    seconds = time.perf_counter() - start
    assert journal.counts() == {"done": count}
    journal.close()
    print(f"{SIMULATED} simulated workers, thumbnails of 3 kB: {count / seconds:.0f} files a second through the driver")
    print(f"(goal: {JOURNAL_GOAL})\n")


def _added(folder: Path, count: int) -> None:
    source, output = folder / "in-added", folder / "out-added"
    made(source, range(count // 10))
    ended(driver(source, output))
    made(source, range(count // 10, count // 10 + ADDED))
    _, done, _ = ended(driver(source, output))
    print(f"{ADDED} pictures added to {count // 10}: the second run did {done}\n")


def _workers(folder: Path, count: int) -> None:
    source, seconds = folder / "in-workers", {}
    number = max(32, count // 50)
    made(source, range(number))
    for workers in (1, 2):
        _, _, seconds[workers] = ended(driver(source, folder / f"out-{workers}-workers", workers, work=300))
    print(f"{number} pictures with work: one worker {seconds[1]:.1f} s, two {seconds[2]:.1f} s,")
    print(
        f"{seconds[1] / seconds[2]:.2f}x (goal: {WORKERS_GOAL:g}x; load of the machine now {os.getloadavg()[0]:.1f})\n"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="bench.archive", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=PICTURES)
    parser.add_argument("--only", choices=WHAT, action="append")
    parser.add_argument("--drive", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.drive:
        source, output, workers, work = options.drive
        try:
            drive(Path(source), Path(output), int(workers), int(work))
        except KeyboardInterrupt:
            return 130
        return 0
    runs = {"kills": _kills, "memory": _memory, "journal": _journal, "added": _added, "workers": _workers}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only or WHAT:
            print(f"measuring {name} ...", file=sys.stderr, flush=True)
            runs[name](Path(folder), options.pictures)
            sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
