"""What a server says of a run, and what a domain makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.config import load_config
from cogen.errors import ConfigError
from cogen.node.request import Site, config_from, settings_for
from cogen.node.wire import PACKED, pack, unpack


def test_a_domain_gets_every_setting_that_training_needs(config_file: Path, tmp_path: Path) -> None:
    config = load_config(config_file, ["train.rank=6", "federation.num_rounds=3", "data.redact=true"])
    domain = config.domains[1].model_copy(update={"rank": 3})
    got = config_from(settings_for(config, domain), Site("grid", "/elsewhere/grid", tmp_path))
    assert (got.base, got.train, got.evaluate, got.data) == (config.base, config.train, config.evaluate, config.data)
    assert (got.federation.num_rounds, got.federation.optimizer_across_rounds) == (3, "keep")
    assert [(d.name, d.data, got.rank_of(d)) for d in got.domains] == [("grid", "/elsewhere/grid", 3)]


def test_no_corpus_of_another_domain_is_named(config_file: Path) -> None:
    """Red: the whole config in place of chosen tables."""
    config = load_config(config_file)
    text = settings_for(config, config.domains[0])
    assert all(str(d.data) not in text and d.name not in text for d in config.domains)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"rank": 4, "train": {"rang": 4}}'])
def test_other_settings_are_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected"):
        config_from(text, Site("grid", "corpus", tmp_path))


def test_arrays_come_out_of_the_pack_as_they_went_in() -> None:
    import numpy as np

    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4), np.float64)}
    packed = pack(arrays)
    assert list(packed) == [PACKED] and packed[PACKED].dtype == np.uint8
    assert pack(dict(reversed(arrays.items())))[PACKED].tobytes() == packed[PACKED].tobytes()
    found = unpack(packed)
    assert {k: (v.dtype, v.tolist()) for k, v in found.items()} == {k: (v.dtype, v.tolist()) for k, v in arrays.items()}
    whole = packed[PACKED]
    for other in ({}, arrays, {PACKED: whole.astype(np.int16)}, {PACKED: whole[:-1]}, {PACKED: whole, "more": whole}):
        with pytest.raises(ValueError, match=r"expected one array|not in the safetensors format"):
            unpack(other)
