"""The server's step with bad, late and scaled replies: bounds on the global update, from config to factors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cogen.adapter import Factors
from cogen.config import RunConfig, load_config
from cogen.merge.factored import compress, norm, stack
from cogen.protocol.messages import Figures
from server.aggregate import aggregate
from server.replies import ClientUpdate

SHAPES = {"x": (24, 30), "y": (18, 20)}
NAMES = ["a", "b", "c", "d", "e"]


def config(folder: Path, *overrides: str) -> RunConfig:
    path = folder / "run.toml"
    path.write_text("".join(f'[[domains]]\nname = "{n}"\n' for n in NAMES))
    return load_config(path, ["train.rank=3", "federation.server_rank=18", "federation.method=mean", *overrides])


def factors(seed: int, size: float = 1.0) -> dict[str, Factors]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, (d_out, d_in) in SHAPES.items():
        a, b = torch.randn(3, d_in, generator=generator), torch.randn(d_out, 3, generator=generator)
        made[name] = Factors(a=a, b=size * b, scaling=2.0)
    return made


def nothing() -> dict[str, Factors]:
    return {n: Factors(f.a, torch.zeros_like(f.b), f.scaling) for n, f in factors(1).items()}


def sorted_factors(seed: int) -> dict[str, Factors]:
    return {n: compress(f, None, f.scaling).factors for n, f in factors(seed).items()}


def reply(domain: str, made: dict[str, Factors], tokens: int = 100) -> ClientUpdate:
    return ClientUpdate(domain, made, Figures(num_tokens=tokens), 0)


def size_of(new: dict[str, Factors], old: dict[str, Factors]) -> float:
    return sum(norm(stack([new[n], old[n]], [1.0, -1.0])) ** 2 for n in old) ** 0.5


BAD = {
    "huge": factors(99, 1e4),
    "tiny but many times": factors(99, 50.0),
    "the others' sign": {n: Factors(f.a, -20 * f.b, f.scaling) for n, f in factors(10).items()},
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("robust", ["clip", "median", "krum"])
def test_one_bad_client_of_five_stays_within_the_bound(tmp_path: Path, kind: str, robust: str) -> None:
    """|D| <= largest good norm with clip and krum, 2 (1 - 1/5) / (1 - 2/5) of it with the median; the mean breaks all.

    Red: robust is not passed on; the gram is of factors in place of client updates.
    """
    good = [reply(name, factors(10 + i)) for i, name in enumerate(NAMES[:4])]
    replies = [*good, reply("e", BAD[kind])]
    old = nothing()
    largest = max(size_of(r.factors, old) for r in good)
    made = aggregate(config(tmp_path, f"federation.robust={robust}"), old, replies, 1)
    limit = 8 / 3 if robust == "median" else 1.0
    assert 0 < size_of(made.factors, old) <= limit * largest * (1 + 1e-4)
    assert [round(n / size_of(r.factors, old), 4) for n, r in zip(made.norms, replies, strict=True)] == [1.0] * 5
    assert (made.weights[4] == 0) == (robust == "krum")
    plain = aggregate(config(tmp_path), old, replies, 1)
    assert size_of(plain.factors, old) > 8 / 3 * largest and plain.norms == []


@pytest.mark.parametrize("optimizer", ["none", "nesterov"])
def test_clipping_nobody_is_the_mean(tmp_path: Path, optimizer: str) -> None:
    """Red: weights are divided by their sum once more, or client updates enter twice."""
    old = sorted_factors(5)
    replies = [reply(name, factors(10 + i), 100 + i) for i, name in enumerate(NAMES)]
    settings = (f"federation.server_optimizer={optimizer}", "federation.robust_clip=1000")
    plain = aggregate(config(tmp_path, *settings), old, replies, 1)
    clipped = aggregate(config(tmp_path, *settings, "federation.robust=clip"), old, replies, 1)
    assert clipped.weights == pytest.approx(plain.weights)
    assert size_of(clipped.factors, plain.factors) < 1e-4 * size_of(plain.factors, old)


def test_a_late_reply_weighs_less(tmp_path: Path) -> None:
    """100 tokens one round late at 0.25. Red: straggler_weight is not read."""
    old = sorted_factors(5)
    late = ClientUpdate("b", factors(11), Figures(num_tokens=100), 0, start=sorted_factors(6), rounds_late=1)
    made = aggregate(config(tmp_path, "federation.straggler_weight=0.25"), old, [reply("a", factors(10)), late], 2)
    assert made.weights == pytest.approx([0.8, 0.2])
