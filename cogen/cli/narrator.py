"""What `cogen simulate` and `cogen run` show on stderr: a line for each round, and a bar for all that takes time."""

from __future__ import annotations

import time
from typing import Any

from cogen.console import Bars, duration

SCORING = "scoring"


class Narrator(Bars):
    """One line a round and a live bar for each client that trains, on stderr."""

    def __init__(self) -> None:
        super().__init__()
        self.num_rounds = self.num_clients = self.round = 0
        self.is_relay = False
        self.losses: dict[str, list[float]] = {}
        self.began = time.monotonic()
        self.steps = self.num_left_tokens = 0

    def __enter__(self) -> Narrator:
        super().__enter__()
        return self

    def on_event(self, event: dict[str, Any]) -> None:
        """Show one event."""
        show = getattr(self, f"_on_{event['event']}", None)
        if show is not None:
            show(event)

    def _title(self, domain: str) -> str:
        return f"round {self.round}/{self.num_rounds} · {domain}"

    def _on_starting(self, event: dict[str, Any]) -> None:
        self.say("starting Flower")

    def _on_waiting(self, event: dict[str, Any]) -> None:
        self.say(f"waiting for {event['text']} · {duration(event['seconds'])}")

    def _on_corpus_read(self, event: dict[str, Any]) -> None:
        self.say(event["text"])

    def _on_run_started(self, event: dict[str, Any]) -> None:
        self.num_rounds, self.num_clients = event["num_rounds"], len(event["domains"])
        self.is_relay = event.get("schedule") == "relay"
        how = "resumed" if event["resumed"] else "started"
        self.say(f"{how} · base {event['base']} · {self.num_clients} clients · {self.num_rounds} round(s)")

    def _on_round_costs(self, event: dict[str, Any]) -> None:
        from cogen.train.cost import TrainingCost

        costs = {domain: TrainingCost(**cost) for domain, cost in event["domains"].items()}
        for domain, cost in costs.items():
            self.say(f"{domain} · a round takes {cost}")
        for warning in dict.fromkeys(cost.warning for cost in costs.values() if cost.warning):
            self.say(warning)

    def _on_round_started(self, event: dict[str, Any]) -> None:
        self.round, self.losses, self.steps = event["round"], {}, 0
        self.began = time.monotonic()

    def _on_visit_started(self, event: dict[str, Any]) -> None:
        self.say(f"{self._title(event['domain'])} · visit {event['visit']} of {self.num_clients}")

    def _on_visit_postponed(self, event: dict[str, Any]) -> None:
        self.say(f"{self._title(event['domain'])} is passed over and visited later: {event['reason']}")

    def _on_step(self, event: dict[str, Any]) -> None:
        self.losses.setdefault(event["domain"], []).append(event["loss_nats"])
        self.steps += 1
        total = event["num_steps"] * self.num_clients
        left = (time.monotonic() - self.began) / self.steps * (total * (self.num_rounds - self.round + 1) - self.steps)
        note = f"loss {event['loss_nats']:.2f} · {event['tokens_per_second']:.0f} tok/s · {duration(left)} left"
        title = self._title(event["domain"])
        self._advance(title, "step", event["step"], event["num_steps"], note)
        if event["step"] == event["num_steps"]:
            self.end(title)

    def _on_client_dropped(self, event: dict[str, Any]) -> None:
        self.end(self._title(event["domain"]))
        self.say(f"round {event['round']} · {event['domain']} dropped: {event['reason']}")

    def _on_client_retried(self, event: dict[str, Any]) -> None:
        self.say(f"round {event['round']} · {event['domain']} asked again: its node is back")

    def _on_client_suspended(self, event: dict[str, Any]) -> None:
        self.say(f"round {event['round']} · {event['domain']} suspended: {event['reason']}")

    def _on_reply_rejected(self, event: dict[str, Any]) -> None:
        self.say(f"reply rejected: {event['reason']}")

    def _on_round_finished(self, event: dict[str, Any]) -> None:
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
        self.say(" · ".join(p for p in parts if p))
        if event["round"] == self.num_rounds:
            self.show(SCORING, 0, None, "")
            has_experts = self.num_rounds == 1 and not self.is_relay
            self.say(f"scoring base{', experts' if has_experts else ''} and combined on held-out text")

    def _on_round_chosen(self, event: dict[str, Any]) -> None:
        if event["round"] != self.num_rounds:
            self.say(f"round {event['round']} gave the best model, and the run ends with it")

    def _on_evaluated(self, event: dict[str, Any]) -> None:
        self.end(SCORING)
        self.say(f"scored {event['num_cells']} cells{' of ' + event['model'] if 'model' in event else ''}")

    def _on_seed_started(self, event: dict[str, Any]) -> None:
        if event["num_seeds"] > 1:
            self.say(f"seed {event['seed']} · {event['number']} of {event['num_seeds']}")

    def _on_seed_finished(self, event: dict[str, Any]) -> None:
        if (num_left := event["num_seeds"] - event["number"]) > 0:
            left = duration(event["seconds"] * num_left)
            self.say(f"seed {event['seed']} done in {duration(event['seconds'])} · about {left} left")

    def _on_baseline_started(self, event: dict[str, Any]) -> None:
        self.num_left_tokens = event["num_left_tokens"]
        self.say(f"training {event['baseline']}, a baseline · {self.num_left_tokens} tokens of baselines left")

    def _on_baseline_step(self, event: dict[str, Any]) -> None:
        rate = max(event["tokens_per_second"], 1e-9)
        left = duration((self.num_left_tokens - event["num_tokens"]) / rate)
        note = f"loss {event['loss_nats']:.2f} · {rate:.0f} tok/s · {left} left"
        self._advance(event["baseline"], "step", event["step"], event["num_steps"], note)

    def _on_baseline_trained(self, event: dict[str, Any]) -> None:
        self.end(event["baseline"])

    def _on_baseline_failed(self, event: dict[str, Any]) -> None:
        self.end(event["baseline"])
        self.say(f"baseline {event['baseline']} failed: {event['reason']}")

    def _on_score_step(self, event: dict[str, Any]) -> None:
        rate = max(event["tokens_per_second"], 1e-9)
        left = duration((event["total_tokens"] - event["num_tokens"]) / rate)
        note = f"{event['model']} · {rate:.0f} tok/s · {left} left"
        self._advance(SCORING, "token", event["num_tokens"], event["total_tokens"], note)

    def _advance(self, title: str, unit: str, done: int, total: int, note: str) -> None:
        self.show(title, done, total, f"{unit} {done}/{total} · {note}")


def _change(before: float | None, after: float | None) -> str:
    return "" if before is None or after is None else f"bpb {before:.3f} → {after:.3f}"
