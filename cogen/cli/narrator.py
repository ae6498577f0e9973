"""What `cogen simulate` says on stderr while it runs: a line a round, a bar for all that takes time."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

from cogen.cli.show import duration

if TYPE_CHECKING:
    from rich.progress import TaskID


SCORING = "scoring"


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
        self.steps = self.num_left_tokens = 0

    def __enter__(self) -> Narrator:
        self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.live.stop()

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_{event['event']}", None)
        if show is not None:
            show(event)

    def _title(self, domain: str) -> str:
        return f"round {self.round}/{self.num_rounds} · {domain}"

    def _say(self, text: str) -> None:
        self.live.console.print(text, highlight=False, soft_wrap=True)

    def _starting(self, event: dict[str, Any]) -> None:
        self._say("starting Flower")

    def _run_started(self, event: dict[str, Any]) -> None:
        self.num_rounds, self.num_clients = event["num_rounds"], len(event["domains"])
        how = "resumed" if event["resumed"] else "started"
        self._say(f"{how} · base {event['base']} · {self.num_clients} clients · {self.num_rounds} round(s)")

    def _round_costs(self, event: dict[str, Any]) -> None:
        from cogen.train.cost import TrainingCost

        for domain, cost in event["domains"].items():
            self._say(f"{domain} · a round takes {TrainingCost(**cost)}")

    def _round_started(self, event: dict[str, Any]) -> None:
        self.round, self.heard, self.losses, self.steps = event["round"], 0, {}, 0
        self.began = time.monotonic()

    def _step(self, event: dict[str, Any]) -> None:
        self.losses.setdefault(event["domain"], []).append(event["loss_nats"])
        self.steps += 1
        total = event["num_steps"] * self.num_clients
        left = (time.monotonic() - self.began) / self.steps * (total * (self.num_rounds - self.round + 1) - self.steps)
        note = f"loss {event['loss_nats']:.2f} · {event['tokens_per_second']:.0f} tok/s · {duration(left)} left"
        title = self._title(event["domain"])
        self._advance(title, "step", event["step"], event["num_steps"], note)
        if event["step"] == event["num_steps"]:
            self._end_bar(title)

    def _end_bar(self, title: str) -> None:
        bar = self.bars.pop(title, None)
        if bar is not None:
            self.live.remove_task(bar)

    def _client_replied(self, event: dict[str, Any]) -> None:
        self.heard += 1

    def _client_left_out(self, event: dict[str, Any]) -> None:
        self._end_bar(self._title(event["domain"]))
        self._say(f"round {event['round']} · {event['domain']} dropped: {event['reason']}")

    def _client_asked_again(self, event: dict[str, Any]) -> None:
        self._say(f"round {event['round']} · {event['domain']} asked again: its node is back")

    def _client_set_aside(self, event: dict[str, Any]) -> None:
        self._say(f"round {event['round']} · {event['domain']} suspended: {event['reason']}")

    def _answer_refused(self, event: dict[str, Any]) -> None:
        self._say(f"refused {event['reason']}")

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
            self.bars[SCORING] = self.live.add_task(SCORING, total=None, note="")
            self._say("scoring base, experts and combined on held-out text")

    def _evaluated(self, event: dict[str, Any]) -> None:
        self._end_bar(SCORING)
        self._say(f"scored {event['num_cells']} cells{' of ' + event['model'] if 'model' in event else ''}")

    def _seed_started(self, event: dict[str, Any]) -> None:
        if event["num_seeds"] > 1:
            self._say(f"seed {event['seed']} · {event['number']} of {event['num_seeds']}")

    def _seed_finished(self, event: dict[str, Any]) -> None:
        if (num_left := event["num_seeds"] - event["number"]) > 0:
            left = duration(event["seconds"] * num_left)
            self._say(f"seed {event['seed']} done in {duration(event['seconds'])} · about {left} left")

    def _baseline_started(self, event: dict[str, Any]) -> None:
        self.num_left_tokens = event["num_left_tokens"]
        self._say(f"training {event['baseline']}, to compare with · {self.num_left_tokens} tokens of baselines left")

    def _baseline_step(self, event: dict[str, Any]) -> None:
        rate = max(event["tokens_per_second"], 1e-9)
        left = duration((self.num_left_tokens - event["num_tokens"]) / rate)
        note = f"loss {event['loss_nats']:.2f} · {rate:.0f} tok/s · {left} left"
        self._advance(event["baseline"], "step", event["step"], event["num_steps"], note)

    def _baseline_trained(self, event: dict[str, Any]) -> None:
        self._end_bar(event["baseline"])

    def _baseline_failed(self, event: dict[str, Any]) -> None:
        self._end_bar(event["baseline"])
        self._say(f"{event['baseline']} dropped: {event['reason']}")

    def _score_step(self, event: dict[str, Any]) -> None:
        rate = max(event["tokens_per_second"], 1e-9)
        left = duration((event["total_tokens"] - event["num_tokens"]) / rate)
        note = f"{event['model']} · {rate:.0f} tok/s · {left} left"
        self._advance(SCORING, "token", event["num_tokens"], event["total_tokens"], note)

    def _advance(self, title: str, unit: str, done: int, total: int, note: str) -> None:
        """A bar called `title`; without a terminal a line every ten seconds."""
        if title not in self.bars:
            self.bars[title] = self.live.add_task(title, note="")
        self.live.update(self.bars[title], total=total, completed=done, note=note)
        if not sys.stderr.isatty() and time.monotonic() - self.printed > 10:
            self.printed = time.monotonic()
            self._say(f"{title} · {unit} {done}/{total} · {note}")


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"bpb {before:.3f} → {after:.3f}"
