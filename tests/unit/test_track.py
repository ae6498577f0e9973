"""A run's figures in a tracker, read back by TensorBoard's own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cogen.config import RunConfig, load_config
from cogen.errors import ConfigError
from cogen.report.track import Tracking, flat
from tests.shell import Cogen

STEPS = [
    {"event": "step", "domain": d, "loss_nats": loss, "learning_rate": 0.1, "tokens_per_second": 9.0, "num_tokens": n}
    for d, n, loss in [("clinical", 64, 4.0), ("grid", 64, 5.0), ("clinical", 128, 3.0)]
]


def tracked(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to (step, value), over every file that TensorBoard finds below."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((e.step, e.value) for e in events.Scalars(tag))
    return found


def config(file: Path, *overrides: str) -> RunConfig:
    return load_config(file, ['track.to=["tensorboard"]', *overrides])


def test_steps_and_rounds_lie_over_the_tokens_of_all_clients(config_file: Path, tmp_path: Path) -> None:
    """Red: each client's own tokens as the axis, which then goes back."""
    done: dict[str, Any] = {"event": "round_finished", "round": 1, "bits_per_byte_after": 1.25, "energy_cut_frac": None}
    with Tracking(config(config_file), tmp_path, "mine") as tracking:
        for event in [*STEPS, {"event": "run_started"}, done]:
            tracking.on_event(event)
    found = tracked(tmp_path / "tracking" / "cogen")
    assert found["clinical/loss_nats"] == [(64, 4.0), (192, 3.0)]
    assert found["grid/loss_nats"] == [(128, 5.0)]
    assert found["round/bits_per_byte_after"] == [(192, 1.25)]
    assert "round/energy_cut_frac" not in found


def test_without_trackers_nothing_is_written(config_file: Path, tmp_path: Path) -> None:
    with Tracking(load_config(config_file), tmp_path / "run", "mine") as tracking:
        tracking.on_event(STEPS[0])
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_said_before_anything_starts(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cogen.report.track.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="expected the package tensorboard, got none installed"):
        Tracking(config(config_file), tmp_path, "mine")


def test_a_tracker_that_fails_does_not_end_the_run(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with Tracking(config(config_file), tmp_path, "mine") as tracking:
        monkeypatch.setattr(tracking._accelerator, "log", lambda *a, **k: 1 / 0)
        tracking.on_event(STEPS[0])
        tracking.on_event(STEPS[1])
    assert capsys.readouterr().err.count("tracking stopped: ZeroDivisionError") == 1


def test_settings_are_scalars(config_file: Path) -> None:
    values = flat(config(config_file))
    assert values["train.rank"] == 4 and values["domains"] == "clinical, grid, materials"
    assert all(isinstance(v, str | int | float | bool) for v in values.values())


def test_training_alone_is_tracked(cogen: Cogen, tiny_folder: Path, tmp_path: Path) -> None:
    seeds = Path(__file__).parents[2] / "seeds"
    args = [
        "--set",
        "train.sequence_length=64",
        "--set",
        'track.to=["tensorboard"]',
        "--set",
        "track.project=p",
        "--set",
        "train.batch_size=4",
    ]
    made = ["train", "--base", tiny_folder, "--data", seeds / "grid.jsonl", "--domain", "grid", "--tokens", "512"]
    code, _, err = cogen(*made, *args, "--out", tmp_path / "out")
    assert code == 0, err
    points = tracked(tmp_path / "tracking" / "p")["grid/loss_nats"]
    assert [step for step, _ in points] == [256, 512]
