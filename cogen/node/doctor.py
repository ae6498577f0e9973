"""Whether this machine can take part in a federation, and what a round costs. Each finding is a line with its fix."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cogen.config import Train
from cogen.data.card import CorpusCost
from cogen.files import free_disk_bytes
from cogen.train.cost import TrainingCost

State = Literal["ok", "warning", "problem"]

MIN_DISK_BYTES, LOW_DISK_BYTES = 1 << 30, 5 << 30
MEMORY_SHARE, DEADLINE_SHARE = 0.8, 0.8  # of free memory and of the deadline that a round may be planned to use
MATRIX_SECONDS, MATRIX_SIZE = 2.0, 1024
LOW_GFLOPS = 20.0
MIN_RANK = 4


@dataclass(frozen=True)
class Check:
    """One finding: what was checked, its state, what was found, and what to do if it is not ok."""

    name: str
    state: State
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.state:8}{self.name:16}{self.text}" + (f". {self.fix}" if self.fix else "")


@dataclass(frozen=True)
class Proposal:
    """Settings with which a round fits this machine's memory and ends well before the deadline."""

    rank: int
    batch_size: int
    tokens_per_round: int
    minutes: float
    peak_memory_mb: float
    is_late: bool = False
    """Whether even this round ends after the deadline."""

    def limits(self, asked: Train) -> dict[str, int]:
        """The lines of `policy.toml` that make the coordinator ask for no more than this."""
        less = {"max_rank": (self.rank, asked.rank)}
        less["max_tokens_per_round"] = (self.tokens_per_round, asked.tokens_per_round)
        return {key: mine for key, (mine, theirs) in less.items() if mine < theirs}


def check_machine(folder: Path) -> list[Check]:
    """Cores, memory, disk under `folder`, and the GPU."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = psutil.virtual_memory()
    free = free_disk_bytes(folder)
    state: State = "problem" if free < MIN_DISK_BYTES else "warning" if free < LOW_DISK_BYTES else "ok"
    found = [
        Check("cores", "ok", f"{cores} usable, {torch.get_num_threads()} threads of torch"),
        Check("memory", "ok", f"{memory.available / 1e9:.1f} GB free of {memory.total / 1e9:.1f} GB"),
        Check("disk", state, f"{free / 1e9:.1f} GB free for {folder}", "" if state == "ok" else "Make room."),
    ]
    if torch.cuda.is_available():
        total = torch.cuda.get_device_properties(0).total_memory
        return [*found, Check("gpu", "ok", f"{torch.cuda.get_device_name(0)}, {total / 1e9:.0f} GB")]
    return [*found, Check("gpu", "ok", "none; training runs on the CPU")]


def free_memory_bytes(device: str) -> int:
    """Free memory of the GPU or the machine, plus what this process already holds for a round (mostly the base) [bytes]."""
    import psutil
    import torch

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved())
    return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)


def check_matrix_rate(seconds: float = MATRIX_SECONDS) -> Check:
    """Rate of float32 matrix products on the training device, measured for `seconds` [GFLOP/s]."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.rand(MATRIX_SIZE, MATRIX_SIZE, device=device)
    float((a @ a).sum())
    began, products = time.monotonic(), 0
    while (taken := time.monotonic() - began) < seconds:
        float((a @ a)[0, 0])
        products += 1
    rate = 2 * MATRIX_SIZE**3 * products / taken / 1e9
    slow = rate < LOW_GFLOPS
    fix = "Something else may be running; rounds will take long." if slow else ""
    return Check("matrix rate", "warning" if slow else "ok", f"{rate:.0f} GFLOP/s in float32", fix)


def check_versions(found: Mapping[str, str]) -> Check:
    """Versions of Python and of the packages that results depend on."""
    import platform

    text = ", ".join([f"python {platform.python_version()}", *(f"{k} {v}" for k, v in found.items())])
    missing = [name for name in ("torch", "flwr", "cogen-ai") if found.get(name) == "unknown"]
    fix = f"Install {', '.join(missing)}." if missing else ""
    return Check("versions", "warning" if missing else "ok", text, fix)


def check_adapted(cost: TrainingCost) -> Check:
    """The share of the base's weights that a round trains an adapter for."""
    text = f"{100 * (cost.adapted_frac or 0.0):.3g}% of the weights, in {cost.num_modules} layers"
    return Check("adapted", "warning" if cost.warning else "ok", text, cost.warning.removeprefix("warning: "))


def check_corpus(num_train_tokens: int, settings: Train) -> Check:
    """Whether the corpus has enough tokens for a round."""
    text, asked = f"{num_train_tokens} training tokens", settings.tokens_per_round
    if num_train_tokens < settings.sequence_length:
        return Check("corpus", "problem", text, f"A block alone has {settings.sequence_length}; add documents.")
    if num_train_tokens < asked:
        fix = f"A round of {asked} reads them {asked / num_train_tokens:.1f} times."
        return Check("corpus", "warning", text, fix)
    return Check("corpus", "ok", f"{text}, {num_train_tokens / asked:.1f} rounds of {asked}")


def check_round(cost: CorpusCost, deadline_seconds: float, free_bytes: int) -> list[Check]:
    """Whether the round fits the free memory and ends before its deadline."""
    memory, room = cost.peak_memory_mb, free_bytes / 1e6
    short = memory > room
    tight = memory > MEMORY_SHARE * room
    fits: State = "problem" if short else "warning" if tight else "ok"
    fix = "See the proposal." if short or tight else ""
    late, near = cost.minutes * 60 > deadline_seconds, cost.minutes * 60 > DEADLINE_SHARE * deadline_seconds
    ends: State = "problem" if late else "warning" if near else "ok"
    told = f"{cost.tokens_per_second:.0f} tok/s; a round of {cost.num_tokens} tokens takes {cost.minutes:.1f} min"
    return [
        Check("round memory", fits, f"about {memory:.0f} MB of {room:.0f} MB free", fix),
        Check(
            "round time", ends, f"{told} of {deadline_seconds / 60:.0f}", "See the proposal." if late or near else ""
        ),
        Check("bytes sent", "ok", f"{cost.adapter_mb:.1f} MB a round"),
    ]


def propose(settings: Train, deadline_seconds: float, free_bytes: int, cost_of: Any, min_tokens: int = 0) -> Proposal:
    """The largest batch, then rank, then tokens that fit; never below the smallest values.

    Args:
        cost_of: from settings to their `Cost`, at the rate that was measured.
        min_tokens: the least that the domain's policy allows in a round.
    """
    tried = settings
    while (cost := cost_of(tried)).peak_memory_mb * 1e6 > MEMORY_SHARE * free_bytes:
        if tried.batch_size > 1:
            batch = tried.batch_size // 2
            tried = tried.model_copy(
                update={
                    "batch_size": batch,
                    "gradient_accumulation_steps": min(tried.gradient_accumulation_steps, batch),
                }
            )
        elif tried.rank > MIN_RANK:
            tried = tried.model_copy(update={"rank": max(MIN_RANK, tried.rank // 2)})
        else:
            break
    most = DEADLINE_SHARE * deadline_seconds * cost.tokens_per_second
    wanted, least = (-(-tokens // tried.sequence_length) for tokens in (tried.tokens_per_round, min_tokens))
    blocks = max(1, min(wanted, max(least, int(most // tried.sequence_length))))
    tokens = min(blocks * tried.sequence_length, max(tried.tokens_per_round, tried.sequence_length))
    cost = cost_of(tried.model_copy(update={"tokens_per_round": tokens}))
    is_late = cost.minutes * 60 > deadline_seconds
    return Proposal(tried.rank, tried.batch_size, tokens, cost.minutes, cost.peak_memory_mb, is_late)


def proposal_text(proposal: Proposal, asked: Train, policy: Path) -> str:
    """The proposal. If it is less than the round asks for: the lines for `policy.toml`, and what to ask the coordinator."""
    lines = [
        f"proposal: rank {proposal.rank}, batch_size {proposal.batch_size},"
        f" {proposal.tokens_per_round} tokens a round: {proposal.minutes:.1f} min, {proposal.peak_memory_mb:.0f} MB"
    ]
    if limits := proposal.limits(asked):
        lines += [f"so that no more is asked of this machine, put into {policy}:"]
        lines += [f"{key} = {value}" for key, value in limits.items()]
    if proposal.batch_size < asked.batch_size:
        lines.append(f"and ask the coordinator for train.batch_size = {proposal.batch_size}, which is for all domains")
    if proposal.is_late:
        lines.append("the round ends after its deadline: ask the coordinator for a longer round_deadline_seconds")
    return "\n".join(lines)


def worst(checks: Iterable[Check]) -> State:
    """The worst state among them."""
    states = {check.state for check in checks}
    return "problem" if "problem" in states else "warning" if "warning" in states else "ok"
