"""Fresh factors, and factors on a model: attached, effective, detached without a trace.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import AutoModelForCausalLM

from cogen.adapter import Factors
from cogen.base import Base
from cogen.errors import FingerprintMismatch
from cogen.train.lora import attached, attached_all, detached, init_factors, read_back

TOKENS = (torch.arange(2 * 9).reshape(2, 9) * 37 + 5) % 512
Q, DOWN = "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    """The tiny base in transformers' own attention."""
    loaded = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32, attn_implementation="eager")
    return loaded.eval().requires_grad_(False)


def noise(modules: Mapping[str, tuple[int, int]], ranks: tuple[int, ...], scaling: float, seed: int) -> Any:
    """Factors of visible size, the ranks taking turns."""
    g = torch.Generator().manual_seed(seed)
    found = {}
    for i, (name, (d_out, d_in)) in enumerate(modules.items()):
        r = ranks[i % len(ranks)]
        a, b = torch.randn(r, d_in, generator=g) * 0.2, torch.randn(d_out, r, generator=g) * 0.2
        found[name] = Factors(a, b, scaling * (1 + i % 2))
    return found


@torch.no_grad()
def logits(model: Any) -> Tensor:
    out: Tensor = model(input_ids=TOKENS).logits
    return out


@torch.no_grad()
def with_added(model: Any, *parts: Mapping[str, Factors]) -> Tensor:
    """Logits of a copy whose weights have had every delta_W added."""
    changed = copy.deepcopy(model)
    for factors in parts:
        for name, f in factors.items():
            changed.get_submodule(name).weight += f.scaling * f.b @ f.a
    return logits(changed)


def lora_layers(model: Any) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, BaseTunerLayer) or "lora" in n.lower()]


def test_fresh_factors_change_nothing_and_fill_their_bounds() -> None:
    """A is uniform in +-1/sqrt(d_in), which is PEFT's start: kaiming_uniform_(a=sqrt(5)).

    Red: 2/sqrt(d_in); or A in [0, 1).
    """
    made = init_factors({"wide": (40, 400), "tall": (300, 25)}, 20, 1.5, seed=3)
    for name, (d_out, d_in) in {"wide": (40, 400), "tall": (300, 25)}.items():
        f = made[name]
        assert (f.a.shape, f.b.shape, f.scaling) == ((20, d_in), (d_out, 20), 1.5)
        assert f.a.dtype == f.b.dtype == torch.float32
        assert torch.equal(f.b, torch.zeros(d_out, 20))
        bound = d_in**-0.5
        assert 0.97 * bound < float(f.a.max()) <= bound and -bound <= float(f.a.min()) < -0.97 * bound
        peft = torch.nn.init.kaiming_uniform_(torch.empty(400, d_in), a=5**0.5, generator=torch.Generator())
        assert float(f.a.std()) == pytest.approx(float(peft.std()), rel=0.1)


def test_a_smaller_rank_is_the_leading_part_of_a_larger() -> None:
    """Red: draw (d_in, r) and transpose."""
    small, large = (init_factors({Q: (32, 32)}, r, 2.0, seed=7)[Q] for r in (3, 8))
    assert torch.equal(small.a, large.a[:3])
    assert not torch.equal(large.a[:3], large.a[3:6])


def test_rank_is_held_to_the_smaller_side() -> None:
    assert init_factors({"m": (5, 9)}, 16, 1.0, seed=0)["m"].rank == 5
    assert init_factors({"m": (9, 4)}, 16, 1.0, seed=0)["m"].rank == 4


def test_a_module_starts_the_same_whatever_else_there_is() -> None:
    """Red: one generator for all modules; Python's salted hash() of the name."""
    alone = init_factors({"b": (6, 8)}, 4, 1.0, seed=5)["b"].a
    torch.manual_seed(99)
    among = init_factors({"a": (6, 8), "b": (6, 8), "c": (3, 3)}, 4, 2.0, seed=5)
    assert torch.equal(alone, among["b"].a)
    assert not torch.equal(alone, among["a"].a)
    assert not torch.equal(alone, init_factors({"b": (6, 8)}, 4, 1.0, seed=6)["b"].a)


@pytest.mark.parametrize("ranks", [(4,), (1, 3, 6)], ids=str)
def test_attached_adds_delta_w(tiny: Base, model: Any, ranks: tuple[int, ...]) -> None:
    """delta_W = scaling * B A in every module, ranks and scalings differing. Red: scaling left at 1."""
    factors = noise(tiny.info.modules, ranks, 0.7, seed=1)
    expected = with_added(model, factors)
    assert (expected - logits(model)).abs().max() > 0.5
    with attached(model, factors):
        found = logits(model)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_rest_is_added_on_top(tiny: Base, model: Any) -> None:
    """Red: the frozen part is injected and not made active."""
    train, rest = noise(tiny.info.modules, (3,), 0.7, seed=1), noise({Q: (32, 32), DOWN: (32, 48)}, (2, 5), 1.3, seed=2)
    expected = with_added(model, train, rest)
    assert (expected - with_added(model, train)).abs().max() > 0.05
    with attached(model, train, rest) as live:
        found = logits(model)
        assert set(live) == set(train)
        assert all(a.requires_grad and b.requires_grad for a, b in live.values())
        wanted = {id(p) for pair in live.values() for p in pair}
        assert {id(p) for p in model.parameters() if p.requires_grad} == wanted
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_nothing_stays_behind(tiny: Base, model: Any) -> None:
    """Red: leave without unload()."""
    before, weights = logits(model), copy.deepcopy(model.state_dict())
    train, rest = noise(tiny.info.modules, (3,), 0.7, seed=1), noise({Q: (32, 32)}, (2,), 1.3, seed=2)
    for _ in range(2):
        with attached(model, train, rest):
            assert len(lora_layers(model)) > 14
            assert not torch.equal(logits(model), before)
        assert lora_layers(model) == []
        assert torch.equal(logits(model), before)
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_nothing_stays_behind_when_the_block_fails(tiny: Base, model: Any) -> None:
    before = logits(model)
    with pytest.raises(KeyError, match="mine"), attached(model, noise(tiny.info.modules, (3,), 0.7, seed=1)):
        raise KeyError("mine")
    assert lora_layers(model) == []
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("bad", ["absent", "misshapen", "not-linear"])
@pytest.mark.parametrize("where", ["train", "rest"])
def test_what_does_not_fit_is_refused_before_anything_is_attached(model: Any, where: str, bad: str) -> None:
    """PEFT itself, failing half-way, leaves its layers on the model; and takes any shape for any layer."""
    before = logits(model)
    good = noise({Q: (32, 32)}, (3,), 0.7, seed=1)
    name = {"absent": "model.layers.9.mlp.up_proj", "misshapen": DOWN, "not-linear": "model.norm"}[bad]
    mixed = {**good, name: good[Q]}
    parts = (mixed,) if where == "train" else (good, mixed)
    fit = pytest.raises(FingerprintMismatch, match=rf"{name} .*, got \(32, 32\)")
    with fit as refused, attached(model, *parts):
        pass
    assert "\n" not in str(refused.value)
    assert lora_layers(model) == []
    assert torch.equal(logits(model), before)


def test_masters_are_float32_on_a_bfloat16_base(tiny: Base, model: Any) -> None:
    factors = noise(tiny.info.modules, (3,), 0.7, seed=1)
    with attached(model.to(torch.bfloat16), factors) as live:
        for name, (a, b) in live.items():
            assert torch.equal(a.detach(), factors[name].a) and torch.equal(b.detach(), factors[name].b)


def test_live_factors_are_copies_both_ways(tiny: Base, model: Any) -> None:
    """What goes in is not trained in place, and what is read back does not change afterwards.

    Red: read_back without copy=True; _fill without clone().
    """
    factors = noise(tiny.info.modules, (3,), 0.7, seed=1)
    kept = copy.deepcopy(factors)
    with attached(model, factors) as live:
        first = read_back(live, {n: f.scaling for n, f in factors.items()})
        with torch.no_grad():
            for a, b in live.values():
                a.add_(1.0)
                b.mul_(2.0)
        second = read_back(live, {n: f.scaling for n, f in factors.items()})
    for name, f in kept.items():
        assert torch.equal(factors[name].a, f.a) and torch.equal(factors[name].b, f.b)
        assert torch.equal(first[name].a, f.a) and torch.equal(first[name].b, f.b)
        assert torch.equal(second[name].a, f.a + 1.0) and torch.equal(second[name].b, f.b * 2.0)
        assert first[name].scaling == f.scaling and not first[name].a.requires_grad


def test_of_several_one_works_at_a_time(tiny: Base, model: Any) -> None:
    """Red: two work together; the first stays on; ranks of one are those of another; something stays behind."""
    parts = dict(list(tiny.info.modules.items())[:5])
    adapters = {
        "expert:a.b": noise(tiny.info.modules, (3, 2), 0.5, 1),
        "common": noise(tiny.info.modules, (4,), 2.0, 2),
        "few": noise(parts, (1,), 1.0, 3),
    }
    before, keys = logits(model), sorted(model.state_dict())
    with attached_all(model, adapters) as use:
        torch.testing.assert_close(logits(model), with_added(copy_of(tiny), adapters["expert:a.b"]))
        for name in ("few", "common", "few", "expert:a.b"):
            use(name)
            torch.testing.assert_close(logits(model), with_added(copy_of(tiny), adapters[name]), msg=name)
        assert not any(p.requires_grad for p in model.parameters())
        with detached(model):
            assert torch.equal(logits(model), before)
    assert torch.equal(logits(model), before)
    assert sorted(model.state_dict()) == keys
    assert not any(isinstance(m, BaseTunerLayer) for m in model.modules())


def test_of_several_none_is_attached_where_one_does_not_fit(tiny: Base, model: Any) -> None:
    bad = {"layers.9.nothing": next(iter(noise(tiny.info.modules, (2,), 1.0, 1).values()))}
    with (
        pytest.raises(FingerprintMismatch, match="absent"),
        attached_all(model, {"good": noise(tiny.info.modules, (2,), 1.0, 1), "bad": bad}),
    ):
        pass
    assert not any(isinstance(m, BaseTunerLayer) for m in model.modules())


def copy_of(base: Base) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        base.info.folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
