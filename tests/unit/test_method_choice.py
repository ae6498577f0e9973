"""The method of a run whose config names none."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.config import load_config
from cogen.errors import ConfigError

CONFIG = '[[domains]]\nname = "a"\ndata = "a.jsonl"\n[[domains]]\nname = "b"\ndata = "b.jsonl"\n'


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.toml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    ("overrides", "method"),
    [
        ((), "tsv_m"),
        (("federation.num_rounds=10",), "tsv_m"),
        (("federation.robust=none",), "tsv_m"),
        (("federation.method=auto",), "tsv_m"),
        (("federation.schedule=relay",), "mean"),
        (("federation.robust=clip",), "mean"),
        (("federation.server_optimizer=nesterov",), "mean"),
        (("federation.method=ties", "federation.robust=clip"), "ties"),
        (("federation.method=mean",), "mean"),
    ],
)
def test_what_is_chosen_is_written_into_the_run(config: Path, overrides: tuple[str, ...], method: str) -> None:
    """Red: the rule was looked up while a run went on, and its config said auto."""
    chosen = load_config(config, overrides)
    assert chosen.federation.method == method
    config.write_text(chosen.to_toml())
    assert load_config(config).federation.method == method


def test_a_relay_takes_no_method_of_several(config: Path) -> None:
    with pytest.raises(ConfigError, match=r"federation\.method = 'tsv_m' combines updates"):
        load_config(config, ("federation.schedule=relay", "federation.method=tsv_m"))


def test_the_default_clip_of_a_real_federation_leaves_the_method(config: Path) -> None:
    config.write_text(CONFIG + '[[domains]]\nname = "c"\ndata = "c.jsonl"\n')
    federation = load_config(config).deployed().federation
    assert (federation.robust, federation.method) == ("clip", "tsv_m")
