"""The same client update in other factors, (A c, B / c) and worse: it moves the global update no further.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cogen.adapter import Factors, Fingerprint
from cogen.config import RunConfig, load_config
from cogen.errors import ReplyError
from cogen.merge.factored import balanced, cancellation
from cogen.protocol.messages import Figures, TrainReply
from server.aggregate import aggregate
from server.replies import ClientUpdate, Expected, check_reply, norm_outliers

SHAPES = {"x": (24, 30), "y": (18, 20)}
NAMES = ("a", "b", "c", "d", "e")
FINGERPRINT = Fingerprint(weights="w", tokenizer="t", modules="m")
RANK = 3

laws = settings(max_examples=40, deadline=None, derandomize=True, database=None)
powers = st.lists(st.floats(-30.0, 30.0), min_size=RANK, max_size=RANK)


def start() -> dict[str, Factors]:
    g = torch.Generator().manual_seed(0)
    return {n: Factors(torch.randn(RANK, i, generator=g), torch.zeros(o, RANK), 2.0) for n, (o, i) in SHAPES.items()}


def trained(seed: int) -> dict[str, Factors]:
    g = torch.Generator().manual_seed(seed)
    return {
        n: Factors(f.a + 0.02 * torch.randn(f.a.shape, generator=g), 0.02 * torch.randn(f.b.shape, generator=g), 2.0)
        for n, f in start().items()
    }


def received(domain: str, factors: dict[str, Factors]) -> ClientUpdate:
    """The client update as the server takes it from a reply."""
    arrays = {f"{n}.{s}": getattr(f, s).numpy() for n, f in factors.items() for s in "ab"}
    reply = TrainReply(domain=domain, fingerprint=FINGERPRINT, figures=Figures(num_tokens=64), arrays=arrays)
    return check_reply(reply, Expected(domain, RANK, FINGERPRINT, start(), 1000.0, 64))


def regauged(factors: dict[str, Factors], scales: list[float]) -> dict[str, Factors]:
    """B C^-1 and C A with C diagonal, rounded to float32 as a message holds them."""
    c = torch.tensor(scales, dtype=torch.float64)
    return {
        n: Factors((f.a.double() * c[:, None]).float(), (f.b.double() / c).float(), f.scaling)
        for n, f in factors.items()
    }


def dense(factors: dict[str, Factors]) -> np.ndarray:
    return np.concatenate([(f.scaling * (f.b.double() @ f.a.double())).numpy().ravel() for f in factors.values()])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("run")
    (made / "run.toml").write_text("".join(f'[[domains]]\nname = "{n}"\n' for n in NAMES))
    return made


def config(folder: Path, robust: str) -> RunConfig:
    return load_config(
        folder / "run.toml",
        ["train.rank=3", "federation.server_rank=18", "federation.method=mean", f"federation.robust={robust}"],
    )


@laws
@given(st.integers(0, 10**6), powers)
@pytest.mark.parametrize("robust", ["none", "clip", "median", "krum"])
def test_the_factors_that_a_client_chose_do_not_matter(
    folder: Path, robust: str, seed: int, exponents: list[float]
) -> None:
    """Red: no `balanced` in `check_reply`: from c = 1e9 on the global update is off by more than its own size."""
    good = [received(n, trained(seed + i)) for i, n in enumerate(NAMES[1:])]
    own = trained(seed + 99)
    other = regauged(own, [10.0**e for e in exponents])
    before = dense(aggregate(config(folder, robust), start(), [received("a", own), *good], 1).factors)
    after = dense(aggregate(config(folder, robust), start(), [received("a", other), *good], 1).factors)
    assert np.linalg.norm(after - before) <= 1e-4 * np.linalg.norm(before)


@laws
@given(st.integers(0, 10**6), st.floats(5.0, 30.0))
def test_directions_that_cancel_are_refused(seed: int, exponent: float) -> None:
    """A large direction and its opposite, next to the update. Red: no look at the cancellation."""
    made = trained(seed)
    for name, f in made.items():
        a, b = f.a.clone(), f.b.clone()
        a[1], b[:, 1] = 10.0**exponent * a[0] / a[0].norm(), 1.0
        a[2], b[:, 2] = -a[1], 1.0
        made[name] = Factors(a, b, f.scaling)
    with pytest.raises(ReplyError, match=r"times their sum"):
        received("a", made)


@laws
@given(st.integers(0, 10**6), powers)
def test_balanced_is_the_same_product_to_the_last_bit(seed: int, exponents: list[float]) -> None:
    """Red: a scale that is no power of two."""
    (f, *_) = trained(seed).values()
    scales = torch.exp2((torch.tensor(exponents) * 1.5).round().double())
    lopsided = Factors((f.a.double() * scales[:, None]).float(), (f.b.double() / scales).float(), f.scaling)
    made = balanced(lopsided)
    ratio = made.a.double().norm(dim=1) / made.b.double().norm(dim=0)
    assert bool(((ratio > 2.0**-17) & (ratio < 2.0**17)).all())
    products = [g.b.double()[:, j, None] * g.a.double()[None, j] for g in (lopsided, made) for j in range(RANK)]
    assert all(torch.equal(p, q) for p, q in zip(products[:RANK], products[RANK:], strict=True))
    assert abs(cancellation(made) / cancellation(lopsided) - 1.0) < 1e-9


def test_factors_from_training_stay_as_they_are() -> None:
    """Then one client and one round are training alone, bit for bit."""
    for f in trained(3).values():
        assert balanced(f) is f


def test_a_side_that_is_zero_stays() -> None:
    f = Factors(torch.tensor([[1e30, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 3.0], [0.0, 4.0]]), 1.0)
    made = balanced(f)
    assert torch.equal(made.a, f.a) and torch.equal(made.b, f.b) and cancellation(f) == 1.0


def test_honest_updates_are_far_from_the_bound() -> None:
    assert max(cancellation(f) for seed in range(50) for f in trained(seed).values()) < 10


def test_an_update_far_above_the_median_is_an_outlier() -> None:
    """By the lower median of three or more; red: a mean, which the outlier moves."""
    made = {
        n: ClientUpdate(n, {}, Figures(num_tokens=1), 0, norm)
        for n, norm in zip(NAMES, (1.0, 2.0, 3.0, 21.0, 19.0), strict=True)
    }
    some = list(made.values())
    assert set(norm_outliers(some[:4], 10.0)) == {"d"}  # lower median 2
    assert set(norm_outliers(some, 10.0)) == set()  # median 3
    assert set(norm_outliers([made["a"], made["d"]], 10.0)) == set(), "of two, nobody can say which is the odd one"
    (error,) = norm_outliers(some[:4], 10.0).values()
    assert "up to 10 times the round's median, 2" in str(error) and "got 21" in str(error)
