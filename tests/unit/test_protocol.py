"""The messages between coordinator and domain, the settings in them, and their form on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogen.adapter import Factors, Fingerprint
from cogen.config import Wire, load_config
from cogen.errors import MessageError
from cogen.protocol import wire
from cogen.protocol.factors import layout_bytes, num_bytes, reply_layout, through_wire, to_arrays, to_factors
from cogen.protocol.messages import (
    FLOWER_TYPES,
    EvaluateReply,
    EvaluateRequest,
    FailureReply,
    Figures,
    HelloReply,
    HelloRequest,
    Message,
    Reply,
    Request,
    Score,
    SuspendReply,
    SuspendRequest,
    TrainReply,
    TrainRequest,
    pack,
    unpack,
    unpack_reply,
    unpack_request,
)
from cogen.protocol.settings import work_settings
from cogen.protocol.wire import NONCE_BYTES, PIECE, Frame, from_records, new_nonce, nonce_of, to_records

A = np.arange(6, dtype=np.float32).reshape(2, 3)


def messages(config_file: Path) -> list[Message]:
    """One of each type, with every field set."""
    config = load_config(config_file)
    settings = work_settings(config, config.domains[0])
    score = Score(bits_per_byte=1.25, num_bytes=10, num_tokens=3)
    figures = Figures(num_tokens=64, seconds=0.5, bits_per_byte_before=1.5, bits_per_byte_after=1.25)
    return [
        HelloRequest(run="r"),
        TrainRequest(run="r", round=1, settings=settings).with_arrays({"q.a": A}),
        EvaluateRequest(run="r", round=2, settings=settings, models=("combined",)).with_arrays({"combined/q.a": A}),
        SuspendRequest(run="r", round=3, num_failures=3),
        HelloReply(
            domain="grid",
            max_rank=4,
            max_tokens_per_round=512,
            evaluates=False,
            shares_expert=True,
            max_shared_experts=2,
            version="1",
        ),
        TrainReply(domain="grid", fingerprint=Fingerprint("w", "t", "m"), figures=figures, arrays={"q.a": A}),
        EvaluateReply(domain="grid", scores={"base": score}),
        SuspendReply(domain="grid"),
        FailureReply(error="no"),
    ]


def test_every_message_is_read_as_it_was_written(config_file: Path) -> None:
    made = messages(config_file)
    assert {type(m) for m in made} == {*get_args(Request), *get_args(Reply), FailureReply}
    for message in made:
        read = unpack(from_records(to_records(pack(message), new_nonce())), type(message))
        assert read.model_dump() == message.model_dump()
        assert {k: v.tolist() for k, v in read.arrays.items()} == {k: v.tolist() for k, v in message.arrays.items()}


def test_a_request_is_no_reply_and_another_type_is_refused(config_file: Path) -> None:
    made = messages(config_file)
    for message in made:
        is_request = type(message) in FLOWER_TYPES
        (unpack_request if is_request else unpack_reply)(pack(message))
        with pytest.raises(MessageError, match="expected"):
            (unpack_reply if is_request else unpack_request)(pack(message))
    with pytest.raises(MessageError, match="expected train_reply, got hello_reply"):
        unpack(pack(made[4]), TrainReply)


WRONG: dict[str, dict[str, Any]] = {
    "no kind": {"kind": None},
    "a kind that there is not": {"kind": "exec"},
    "an unknown field": {"text": "of a document"},
    "a text for a number": {"figures": {"num_tokens": "64"}},
    "a truth value for a number": {"figures": {"num_tokens": True}},
    "no tokens": {"figures": {"num_tokens": 0}},
    "not a number": {"figures": {"num_tokens": 1, "seconds": float("nan")}},
    "infinity": {"figures": {"num_tokens": 1, "bits_per_byte_after": float("inf")}},
    "below zero": {"figures": {"num_tokens": 1, "bits_per_byte_before": -0.1}},
    "an unknown figure": {"figures": {"num_tokens": 1, "tokens_by_document": [3, 4]}},
    "no fingerprint": {"fingerprint": None},
    "a long domain": {"domain": "x" * 65},
}


@pytest.mark.parametrize("name", WRONG)
def test_fields_are_checked_when_a_message_is_read(name: str, config_file: Path) -> None:
    """One line each, which names the field and cuts what came. Red: lax numbers; unknown fields passed over."""
    frame = pack(messages(config_file)[5])
    header = {k: v for k, v in {**frame.header, **WRONG[name]}.items() if v is not None}
    with pytest.raises(MessageError) as caught:
        unpack_reply(Frame(header, frame.arrays))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_a_domain_gets_the_settings_of_its_work_and_no_others(config_file: Path) -> None:
    config = load_config(config_file, ["train.rank=6", "federation.num_rounds=3", "data.redact=true"])
    domain = config.domains[1].model_copy(update={"rank": 3, "tokens_per_round": 640})
    got = work_settings(config, domain)
    assert set(type(got).model_fields) == {
        "precision",
        "rank",
        "train",
        "num_rounds",
        "optimizer_across_rounds",
        "wire",
        "gate",
    }
    assert (got.num_rounds, got.optimizer_across_rounds) == (3, "keep")
    assert got.train == config.train.model_copy(update={"tokens_per_round": 640})
    assert (got.rank, got.train.rank, got.train.scaling) == (3, 6, config.train.scaling)
    assert got.precision == config.base.precision


def test_no_corpus_and_no_base_of_the_coordinator_is_named(config_file: Path) -> None:
    """Nor text to mix in, how it is mixed, how it is cleaned and split. Red: the whole config in place of chosen tables."""
    mixed = ["train.replay=hf://datasets/org/replayed", "train.annealing=/private/annealed", "train.replay_frac=0.987"]
    config = load_config(config_file, [*mixed, "evaluate.heldout_frac=0.123", "data.redact=true"])
    text = str(pack(TrainRequest(run="r", round=1, settings=work_settings(config, config.domains[0]))).header)
    assert all(str(d.data) not in text and d.name not in text for d in config.domains)
    assert config.base.name not in text
    assert not [word for word in ("replayed", "annealed", "0.987", "heldout", "0.123", "redact") if word in text]


def test_factors_become_arrays_and_back_without_other_models() -> None:
    import torch

    from cogen.adapter import Factors

    made = {"x.q": Factors(torch.randn(2, 5), torch.randn(3, 2), 0.5)}
    arrays = {**to_arrays(made, "one/"), **to_arrays(made, "one two/")}
    back = to_factors(arrays, 0.5, "one/")
    assert list(back) == ["x.q"] and back["x.q"].scaling == 0.5
    assert torch.equal(back["x.q"].a, made["x.q"].a) and torch.equal(back["x.q"].b, made["x.q"].b)
    kinds: tuple[Wire, ...] = ("float32", "int8")
    for kind in kinds:
        arrays, layout = to_arrays(made, wire=kind), reply_layout({"x.q": (3, 5)}, 2, kind)
        assert {k: (str(v.dtype), v.shape) for k, v in arrays.items()} == layout
        assert sum(v.nbytes for v in arrays.values()) == layout_bytes(layout) == num_bytes(made, kind)
    assert reply_layout({"x.q": (3, 5)}, 8) == {"x.q.a": ("float32", (3, 5)), "x.q.b": ("float32", (3, 3))}


def test_a_frame_comes_out_of_its_records_as_it_went_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one record or in many, the same bytes whatever the order of the arrays."""
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros((0, 4), np.float64)}
    header = {"figures": {"loss": 0.1, "num_tokens": 3}, "about": {"domain": "grid", "ok": True}}
    nonce = new_nonce()
    records = to_records(Frame(header, arrays), nonce)
    assert list(records) == ["0"] and to_records(Frame(header, dict(reversed(arrays.items()))), nonce) == records
    monkeypatch.setattr(wire, "PIECE_BYTES", 100)
    pieces = to_records(Frame(header, arrays), nonce)
    assert len(pieces) > 2 and all(len(p[PIECE]) <= 100 for p in pieces.values())
    for made in (records, pieces, dict(reversed(pieces.items()))):
        found = from_records(made)
        assert found.header == header and nonce_of(made) == nonce
        assert {k: (v.dtype, v.tolist()) for k, v in found.arrays.items()} == {
            k: (v.dtype, v.tolist()) for k, v in arrays.items()
        }


def test_every_record_begins_with_the_nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    """So nobody knows its sha256 before it exists. Red: a nonce in the first record, or in the header, only."""
    monkeypatch.setattr(wire, "PIECE_BYTES", 40)
    frame = Frame({"kind": "hello", "text": "x" * 200})
    first, second = to_records(frame, b"a" * NONCE_BYTES), to_records(frame, b"b" * NONCE_BYTES)
    assert len(first) > 5 and first.keys() == second.keys()
    assert all(first[n][PIECE][:16] == b"a" * 16 and second[n][PIECE][:16] == b"b" * 16 for n in first)
    assert len({new_nonce() for _ in range(100)}) == 100
    with pytest.raises(ValueError, match="nonce of 16 bytes"):
        to_records(frame, b"short")


def test_a_message_that_the_gateway_would_refuse_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PIECE_BYTES", 40)
    with pytest.raises(MessageError, match="expected up to 1,536 bytes"):
        to_records(Frame({"text": "x" * 1600}), new_nonce())


FRAMES = ["none", "text", "cut", "more", "gap", "pickle", "list", "other arrays", "deep", "two nonces", "no nonce"]


@pytest.mark.parametrize("name", [*FRAMES, "too many"])
def test_bytes_that_are_no_frame_are_refused(name: str) -> None:
    import pickle

    nonce = b"n" * NONCE_BYTES
    whole = to_records(Frame({"kind": "hello"}), nonce)["0"][PIECE]

    def framed(header: bytes, arrays: bytes) -> dict[str, dict[str, object]]:
        return {"0": {PIECE: nonce + wire.SIZES.pack(len(header), len(arrays)) + header + arrays}}

    broken: dict[str, dict[str, dict[str, object]]] = {
        "none": {},
        "text": {"0": {PIECE: "text"}},
        "cut": {"0": {PIECE: whole[:-1]}},
        "more": {"0": {PIECE: whole}, "1": {PIECE: nonce + b"x"}},
        "gap": {"0": {PIECE: whole[:20]}, "2": {PIECE: nonce + whole[20:]}},
        "two nonces": {"0": {PIECE: whole[:20]}, "1": {PIECE: b"o" * NONCE_BYTES + whole[20:]}},
        "no nonce": {"0": {PIECE: whole[:9]}},
        "too many": {"0": {PIECE: whole}, **{str(i): {PIECE: nonce} for i in range(1, 65)}},
        "pickle": framed(b"{}", pickle.dumps([1])),
        "list": framed(b"[]", whole[-8:]),
        "other arrays": framed(b"{}", b""),
        "deep": framed(b"[" * 100_000, b""),
    }
    with pytest.raises(ValueError, match=r"frame|header"):
        from_records(broken[name])


@given(st.integers(0, 2**32 - 1), st.floats(-30, 30), st.floats(-30, 30))
def test_int8_keeps_each_value_to_a_127th_of_its_direction(seed: int, log_a: float, log_b: float) -> None:
    """And rounding again changes nothing, so that all who have the factors have the same ones.

    Red: a scale that is no power of two. Red: one scale for all directions: a small one is rounded to nothing.
    """
    draw = torch.Generator().manual_seed(seed)
    a, b = torch.randn(3, 7, generator=draw) * 2.0**log_a, torch.randn(5, 3, generator=draw) * 2.0**log_b
    a[1] *= 1e-3  # a direction far below the others
    b[:, 2] = 0.0
    factors = {"x.q": Factors(a, b, 2.0), "y.k": Factors(a[:1], b[:, :1], 0.5)}
    once = through_wire(factors, "int8")
    for name, f in factors.items():
        for got, wanted, axis in ((once[name].a, f.a, 1), (once[name].b, f.b, 0)):
            bound = wanted.abs().amax(dim=axis, keepdim=True) / 127
            assert bool(((got - wanted).abs() <= bound).all())
        assert once[name].scaling == f.scaling
    twice = through_wire(once, "int8")
    assert all(torch.equal(once[n].a, twice[n].a) and torch.equal(once[n].b, twice[n].b) for n in factors)
    assert all(through_wire(factors, "float32")[n] is f for n, f in factors.items())


def test_int8_at_the_ends_of_float32() -> None:
    """Values near the largest and down to the least normal number stay finite. Red: a scale of 0 or infinity."""
    values = torch.tensor([[3.3e38, -3.3e38], [1.2e-38, 0.0], [0.0, 0.0], [127.0, 63.5], [128.0, 3.0]])
    factors = {"x": Factors(values, values.T.contiguous(), 1.0)}
    got = through_wire(factors, "int8")["x"]
    assert bool(torch.isfinite(got.a).all()) and torch.equal(got.a, got.b.T)
    assert torch.equal(got.a[2], values[2]) and got.a[3].tolist() == [127.0, 64.0] and got.a[4].tolist() == [128.0, 4.0]
