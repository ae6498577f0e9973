"""What the processes of a benchmark and its folders hold: memory, CPU time and disk, by kind, and whether it grows."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import psutil

KINDS = {  # words of a command line to what it is called in the result
    "cogen.flower.superlink_process": "superlink",
    "gateway_process": "gateway",
    "flwr-serverapp": "server app",
    "flower-superexec": "superexec",
    "cogen.flower.supernode_process": "supernode",
    "cogen.node.service": "trainer",
    "cogen.flower.clientapp_process": "launcher",
}
SUPERVISOR = "cogen.flower.supervisor"
LEDGERS = ("receipts.jsonl", "work.jsonl", "train.jsonl", "rounds.jsonl", "events.jsonl", "gateway.log")
EARLY, NUM_LATE = range(6, 16), 10


def is_watched(number: int, num_rounds: int) -> bool:
    """Whether memory is looked at again and again in round `number`: rounds 6 to 15, and the last ten of a long run."""
    return num_rounds > EARLY[-1] + NUM_LATE and (number in EARLY or number > num_rounds - NUM_LATE)


def growth(seen: Sequence[tuple[int, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Memory [MB] by kind over all moments of the early and of the late rounds: the least, the median, late over early.

    A process that holds a message of 5 MB is larger than one between two messages, so one moment says little.

    Args:
        seen: the round at work and `memory()`, moment by moment.
    """
    early, late = ([m for n, m in seen if (n in EARLY) == is_early] for is_early in (True, False))
    kinds = sorted({kind for _, found in seen for kind in found})
    return {kind: _grown(*([m[kind] for m in part if kind in m] for part in (early, late))) for kind in kinds}


def _grown(early: list[float], late: list[float]) -> dict[str, float]:
    if not early or not late:
        return {}
    found = {"moments_early": len(early), "moments_late": len(late)}
    for name, of in (("least", min), ("median", median)):
        before, after = float(of(early)), float(of(late))
        found |= {f"{name}_early": round(before, 1), f"{name}_late": round(after, 1)}
        found[f"{name}_growth_frac"] = round(after / before - 1.0, 4)
    return found


def memory() -> dict[str, float]:
    """Resident memory [MB] of all processes that were started here, summed by kind; shared pages count in parts."""
    return by_kind(lambda p: (getattr(p.memory_full_info(), "pss", 0) or p.memory_info().rss) / 1e6)


def cpu_seconds() -> dict[str, float]:
    """CPU time so far, with that of children that have ended, summed by kind."""
    return by_kind(lambda p: sum(p.cpu_times()[:4]))


def by_kind(measure: Callable[[psutil.Process], float]) -> dict[str, float]:
    """A figure of each process, summed by what the process is."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
            kind = (
                "others"
                if SUPERVISOR in line
                else next((name for word, name in KINDS.items() if word in line), "others")
            )
            value = measure(process)
        except psutil.Error:
            continue
        found[kind] = found.get(kind, 0.0) + value
    return {kind: round(value, 1) for kind, value in sorted(found.items())}


def disk(place: Path) -> dict[str, float]:
    """Bytes [MB] below the coordinator's folder and below the domains', run folders and ledgers apart."""
    kinds = ("coordinator's runs", "coordinator, rest", "domains")
    parts = {**dict.fromkeys(kinds, 0), **{f"{kind}: ledgers": 0 for kind in kinds}}
    for path, size in _sizes(place):
        inside = path.relative_to(place).parts
        kind = "domains" if inside[0] != "coordinator" else "coordinator, rest"
        kind = "coordinator's runs" if inside[:3] == ("coordinator", "federation", "runs") else kind
        parts[f"{kind}: ledgers" if path.name.startswith(LEDGERS) else kind] += size
    return {kind: round(size / 1e6, 3) for kind, size in parts.items()}


def _sizes(place: Path) -> Iterator[tuple[Path, int]]:
    """Every file and its bytes; what goes while it is looked at, as older rounds do, is passed over."""
    for folder, _, names in os.walk(place):
        for path in (Path(folder, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    yield path, path.stat().st_size
