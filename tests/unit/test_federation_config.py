"""Settings of `[federation]` that depend on each other, and settings that a domain may override."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.config import load_config
from cogen.errors import ConfigError
from cogen.protocol.settings import work_settings


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_krum_needs_its_replies_in_every_round(tmp_path: Path) -> None:
    """2 f + 3 domains, and valid replies. Red: the default minimum stays at more than half."""
    path = tmp_path / "run.toml"
    path.write_text("".join(f'[[domains]]\nname = "d{i}"\n' for i in range(7)))
    krum = "federation.robust=krum"
    assert load_config(path, [krum]).min_valid_clients == 5
    assert load_config(path, [krum, "federation.num_byzantine=2"]).min_valid_clients == 7
    assert load_config(path, [krum, "federation.min_valid_clients=6"]).min_valid_clients == 6
    assert load_config(path).min_valid_clients == 4
    assert "num_byzantine needs 9 valid replies" in refusal(path, krum, "federation.num_byzantine=3")
    assert "num_byzantine needs 5 valid replies" in refusal(path, krum, "federation.min_valid_clients=4")


def test_a_domain_may_have_tokens_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[[domains]]\nname = "a"\ntokens_per_round = 7\n[[domains]]\nname = "b"\n')
    config = load_config(path, ["train.tokens_per_round=50"])
    assert [config.tokens_of(d) for d in config.domains] == [7, 50]
    assert [work_settings(config, d).train.tokens_per_round for d in config.domains] == [7, 50]


def test_validation_text_is_found_from_the_config_file(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('[[domains]]\nname = "a"\n[federation]\nvalidation = "public.jsonl"\n')
    assert load_config(path).federation.validation == str(tmp_path.resolve() / "public.jsonl")
