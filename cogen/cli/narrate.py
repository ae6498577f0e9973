"""A run as it goes, on stderr, and its result on stdout; for `cogen simulate` and `cogen run`."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Any

from cogen.cli.show import duration, print_json
from cogen.evaluate.matrix import format_table, retained_gain
from cogen.federation.follow import read_evaluation
from cogen.report import write_report
from cogen.runs import RunFolder

if TYPE_CHECKING:
    from rich.progress import TaskID


def show_result(run: RunFolder, *, as_json: bool) -> None:
    """Write the report; print the matrix and where everything lies."""
    page = write_report(run.path)
    evaluation = read_evaluation(run)
    if as_json:
        matrix = json.loads(evaluation.to_json())
        print_json({"run": str(run.path), "retained_gain": retained_gain(evaluation), **matrix})
        return
    print("bits per byte on held-out text (lower is better)\n")
    print(format_table(evaluation))
    print(f"\ncombined adapter: {run.merged}\nreport: {page}")


class Narrator:
    """One line a round and a live bar for each client that trains, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.live = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[note]}"),
            console=Console(stderr=True),
            disable=not sys.stderr.isatty(),
            transient=True,
        )
        self.bars: dict[str, TaskID] = {}
        self.num_rounds = self.num_clients = self.round = self.heard = 0
        self.losses: dict[str, list[float]] = {}
        self.began = self.printed = time.monotonic()
        self.steps = 0

    def __enter__(self) -> Narrator:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def follow(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_{event['event']}", None)
        if show is not None:
            show(event)

    def _say(self, text: str) -> None:
        self.live.console.print(text, highlight=False, soft_wrap=True)

    def _starting(self, event: dict[str, Any]) -> None:
        self._say("starting Flower")

    def _run_started(self, event: dict[str, Any]) -> None:
        self.num_rounds, self.num_clients = event["num_rounds"], len(event["domains"])
        how = "resumed" if event["resumed"] else "started"
        self._say(f"{how} · base {event['base']} · {self.num_clients} clients · {self.num_rounds} round(s)")

    def _round_started(self, event: dict[str, Any]) -> None:
        self.round, self.heard, self.losses, self.steps = event["round"], 0, {}, 0
        self.began = time.monotonic()

    def _step(self, event: dict[str, Any]) -> None:
        self.losses.setdefault(event["domain"], []).append(event["loss_nats"])
        self.steps += 1
        total = event["num_steps"] * self.num_clients
        left = (time.monotonic() - self.began) / self.steps * (total * (self.num_rounds - self.round + 1) - self.steps)
        note = f"loss {event['loss_nats']:.2f} · {event['tokens_per_second']:.0f} tok/s · {duration(left)} left"
        title = f"round {self.round}/{self.num_rounds} · {event['domain']}"
        if event["domain"] not in self.bars:
            self.bars[event["domain"]] = self.live.add_task(title, note="")
        bar = self.bars[event["domain"]]
        self.live.update(bar, total=event["num_steps"], completed=event["step"], note=note)
        if event["step"] == event["num_steps"]:
            self._end_bar(event["domain"])
        if not sys.stderr.isatty() and time.monotonic() - self.printed > 10:
            self.printed = time.monotonic()
            self._say(f"{title} · step {event['step']}/{event['num_steps']} · {note}")

    def _end_bar(self, domain: str) -> None:
        bar = self.bars.pop(domain, None)
        if bar is not None:
            self.live.remove_task(bar)

    def _client_replied(self, event: dict[str, Any]) -> None:
        self.heard += 1

    def _client_left_out(self, event: dict[str, Any]) -> None:
        self._end_bar(event["domain"])
        self._say(f"round {event['round']} · {event['domain']} left out: {event['reason']}")

    def _round_finished(self, event: dict[str, Any]) -> None:
        losses = [sum(v) / len(v) for v in self.losses.values()]
        seconds = event["seconds"]
        parts = [
            f"round {event['round']}/{self.num_rounds}",
            f"clients {event['num_valid']}/{event['num_clients']}",
            f"loss {sum(losses) / len(losses):.2f}" if losses else "",
            _change(event["bits_per_byte_before"], event["bits_per_byte_after"]),
            f"up {event['bytes_up'] / 1e6:.1f} MB",
            f"{event['num_tokens'] / max(seconds, 1e-9):.0f} tok/s",
            f"{duration(seconds * (self.num_rounds - event['round']))} left",
        ]
        self._say(" · ".join(p for p in parts if p))
        if event["round"] == self.num_rounds:
            self.live.add_task("scoring on held-out text", total=None, note="")
            self._say("scoring base, experts and combined on held-out text")

    def _evaluated(self, event: dict[str, Any]) -> None:
        self._say(f"scored {event['num_cells']} cells")


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"bpb {before:.3f} → {after:.3f}"
