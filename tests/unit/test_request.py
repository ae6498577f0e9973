"""What a server says of a run, and what a domain makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.config import load_config
from cogen.errors import ConfigError
from cogen.protocol import wire
from cogen.protocol.settings import Site, config_from, settings_for
from cogen.protocol.wire import PIECE, Frame, from_records, to_records


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


def test_a_frame_comes_out_of_its_records_as_it_went_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one record or in many, the same bytes whatever the order of the arrays."""
    import numpy as np

    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4), np.float64)}
    header = {"figures": {"loss": 0.1, "num_tokens": 3}, "about": {"domain": "grid", "ok": True}}
    records = to_records(Frame(header, arrays))
    assert list(records) == ["0"] and to_records(Frame(header, dict(reversed(arrays.items())))) == records
    monkeypatch.setattr(wire, "PIECE_BYTES", 100)
    pieces = to_records(Frame(header, arrays))
    assert len(pieces) > 2 and all(len(p[PIECE]) <= 100 for p in pieces.values())
    for made in (records, pieces, dict(reversed(pieces.items()))):
        found = from_records(made)
        assert found.header == header
        assert {k: (v.dtype, v.tolist()) for k, v in found.arrays.items()} == {
            k: (v.dtype, v.tolist()) for k, v in arrays.items()
        }


@pytest.mark.parametrize("name", ["none", "text", "cut", "more", "gap", "pickle", "list", "other arrays", "deep"])
def test_bytes_that_are_no_frame_are_refused(name: str) -> None:
    import pickle

    whole = to_records(Frame({"about": {}}))["0"][PIECE]

    def framed(header: bytes, arrays: bytes) -> dict[str, dict[str, object]]:
        return {"0": {PIECE: wire.SIZES.pack(len(header), len(arrays)) + header + arrays}}

    broken: dict[str, dict[str, dict[str, object]]] = {
        "none": {},
        "text": {"0": {PIECE: "text"}},
        "cut": {"0": {PIECE: whole[:-1]}},
        "more": {"0": {PIECE: whole}, "1": {PIECE: b"x"}},
        "gap": {"0": {PIECE: whole[:9]}, "2": {PIECE: whole[9:]}},
        "pickle": framed(b"{}", pickle.dumps([1])),
        "list": framed(b"[]", whole[-8:]),
        "other arrays": framed(b"{}", b""),
        "deep": framed(b"[" * 100_000, b""),
    }
    with pytest.raises(ValueError, match=r"frame|header"):
        from_records(broken[name])
