"""Logs a run to TensorBoard, Weights & Biases, MLflow or trackio, through accelerate's trackers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

from cogen.config import RunConfig
from cogen.errors import ConfigError

ROUND_KEYS = ("bits_per_byte_before", "bits_per_byte_after", "energy_cut_frac", "bytes_up", "bytes_down", "seconds")
CLIENT_KEYS = ("bits_per_byte_before", "bits_per_byte_after", "num_tokens", "seconds", "bytes_up")
STEP_KEYS = ("loss_nats", "learning_rate", "tokens_per_second")
NAME_KEYS = {"wandb": "name", "mlflow": "run_name", "trackio": "name"}


class Tracking:
    """Logs a run's events to the trackers that its config names; without trackers it does nothing.

    The x-axis is the number of tokens that all clients have trained so far, since trackers need one that only grows.
    If a tracker fails after the start (because the network is down, say), one line says so, tracking stops, and the
    run continues.

    Args:
        folder: trackers that write files write into `folder/tracking/<project>`.
        name: of the run, for trackers that name runs.
    Raises:
        ConfigError: a tracker's package is not installed.
    """

    def __init__(self, config: RunConfig, folder: Path, name: str) -> None:
        self.names = list(config.track.to)
        for tracker in self.names:
            if find_spec(tracker) is None:
                raise ConfigError(
                    "cannot track the run",
                    expected=f"the package {tracker}",
                    got="none installed",
                    where="track.to",
                    fix=f"Install it with pip install {tracker}, or remove it from track.to.",
                )
        self.config, self.folder, self.name = config, folder, name
        self._tokens: dict[str, int] = {}
        self._accelerator: Any = None

    def __enter__(self) -> Tracking:
        if self.names:
            from accelerate import Accelerator

            (self.folder / "tracking").mkdir(parents=True, exist_ok=True)
            self._accelerator = Accelerator(
                mixed_precision="no",
                device_placement=False,
                log_with=self.names,
                project_dir=str(self.folder / "tracking"),
            )
            named = {tracker: {NAME_KEYS[tracker]: self.name} for tracker in self.names if tracker in NAME_KEYS}
            self._accelerator.init_trackers(self.config.track.project, flat(self.config), named)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._accelerator is not None:
            self._attempt(self._accelerator.end_training)

    def on_event(self, event: Mapping[str, Any]) -> None:
        """Log the numbers of one event of the run: a line of `events.jsonl`, or a client's step."""
        kind = event["event"]
        if kind == "step":
            self.step(str(event["domain"]), event)
        elif kind == "client_replied":
            self.log({f"{event['domain']}/round/{k}": event.get(k) for k in CLIENT_KEYS})
        elif kind == "round_finished":
            self.log({f"round/{k}": event.get(k) for k in ROUND_KEYS} | {"round/number": event["round"]})

    def step(self, domain: str, values: Mapping[str, Any]) -> None:
        """Log one training step of one domain."""
        self._tokens[domain] = int(values["num_tokens"])
        self.log({f"{domain}/{k}": values.get(k) for k in STEP_KEYS})

    def log(self, values: Mapping[str, Any]) -> None:
        """Log those of `values` that are numbers, at the tokens trained so far."""
        numbers = {k: v for k, v in values.items() if isinstance(v, int | float)}
        if self._accelerator is not None and numbers:
            self._attempt(lambda: self._accelerator.log(numbers, step=sum(self._tokens.values())))

    def _attempt(self, call: Any) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - trackers raise any error of their services, and none may end a run
            print(f"tracking stopped: {type(error).__name__}: {error}", file=sys.stderr)
            self._accelerator = None


def flat(config: RunConfig) -> dict[str, str | int | float | bool]:
    """The settings as `table.key`; lists and tables become text, since trackers store only scalars."""
    found: dict[str, str | int | float | bool] = {"domains": ", ".join(d.name for d in config.domains)}
    for table in ("base", "train", "federation", "evaluate", "data"):
        for key, value in getattr(config, table).model_dump(mode="json", exclude_none=True).items():
            found[f"{table}.{key}"] = value if isinstance(value, str | int | float | bool) else str(value)
    return found
