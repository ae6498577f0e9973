"""The audit: planted faults are found and named, clean adapters raise nothing.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from cogen.adapter import Adapter, Factors, Fingerprint
from cogen.analysis.adapter_checks import audit
from cogen.analysis.diagnose import diagnose
from cogen.analysis.diagnosis import Finding
from cogen.analysis.outliers import concentration, find_outliers

NAMES = ["clinical", "grid", "materials", "education", "construction"]
SHAPES = {"q_proj": (32, 32), "v_proj": (16, 32), "up_proj": (48, 32), "down_proj": (32, 48)}
MODULES = {f"layers.{i}.{kind}": shape for i in range(3) for kind, shape in SHAPES.items()}
OURS = Fingerprint("w1", "t1", "m1")


def clean(seed: int, ranks: tuple[int, ...] = (4, 8, 8, 16, 2), decay: float = 0.0) -> list[Adapter]:
    """Random adapters whose sizes differ threefold; with `decay`, direction j is exp(-decay j) as strong."""
    generator = torch.Generator().manual_seed(seed)
    adapters = []
    for i, rank in enumerate(ranks):
        factors = {}
        for name, (d_out, d_in) in MODULES.items():
            size = (1.0 + i / 2) * (0.5 + float(torch.rand(1, generator=generator))) / math.sqrt(rank)
            fall = torch.exp(-decay * torch.arange(rank))
            a = torch.randn(rank, d_in, generator=generator)
            factors[name] = Factors(a, size * fall * torch.randn(d_out, rank, generator=generator), 2.0)
        adapters.append(Adapter(factors, "", OURS))
    return adapters


def changed(adapter: Adapter, modules: list[str], size: float = 1.0, spike: float = 0.0) -> Adapter:
    """Modules made larger, or with one direction of `spike` times their own norm on top (in their own rank)."""
    factors = dict(adapter.factors)
    for name in modules:
        f = factors[name]
        generator = torch.Generator().manual_seed(len(name))
        b, a = size * f.b.clone(), f.a.clone()
        if spike:
            a[0] = torch.randn(a.shape[1], generator=generator)
            b[:, 0] = spike * b.norm() * torch.nn.functional.normalize(torch.randn(len(b), generator=generator), dim=0)
        factors[name] = Factors(a, b, f.scaling)
    return replace(adapter, factors=factors)


def kinds(found: list[Finding]) -> list[tuple[str, str]]:
    return [(f.adapter, f.kind) for f in found]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("decay", [0.0, 0.3, 1.0])
def test_clean_adapters_of_unequal_ranks_raise_nothing(seed: int, decay: float) -> None:
    """Red: spectra are compared at their own ranks."""
    assert audit(clean(seed, decay=decay), NAMES) == []
    assert audit(clean(seed, (8, 8, 1), decay), NAMES[:3]) == []
    assert audit(clean(seed, (16, 16, 16, 2), decay), NAMES[:4]) == []


@pytest.mark.parametrize("size", [100.0, 0.001])
def test_a_norm_far_from_the_others_is_named(size: float) -> None:
    """Red: NORM_FLOOR is log(1000) / FAR."""
    group = clean(1)[:3]
    group[1] = changed(group[1], list(MODULES), size)
    (found,) = audit(group, NAMES[:3])
    assert (found.adapter, found.kind, found.level) == ("grid", "norm", "hint")
    assert ("outsize" if size > 1 else "near zero") in found.text


def test_one_module_far_from_the_others_is_named() -> None:
    """Red: the adapter's own level is not taken out, so that a large adapter is named for its modules."""
    group = clean(2)
    group[4] = changed(changed(group[4], list(MODULES), 8.0), ["layers.1.q_proj"], 60.0)
    found = [f for f in audit(group, NAMES) if f.kind == "module norm"]
    assert [(f.adapter, f.module) for f in found] == [("construction", "layers.1.q_proj")]
    assert "1 of 12 modules" in found[0].text


def test_what_was_never_trained_is_named() -> None:
    """Red: a norm of 0 counts as one near zero."""
    group = clean(3)
    group[0] = changed(group[0], list(MODULES), 0.0)
    group[1] = changed(group[1], ["layers.2.up_proj"], 0.0)
    found = audit(group, NAMES)
    assert kinds(found) == [("clinical", "norm"), ("grid", "module norm")]
    assert "exactly zero" in found[0].text and "layers.2.up_proj, zero" in found[1].text


@pytest.mark.parametrize(("who", "seed"), [(0, 4), (3, 5)])
def test_a_planted_direction_is_named_by_module(who: int, seed: int) -> None:
    """Ranks 4 and 16. Red: FEWEST_MODULES is 50."""
    group = clean(seed, decay=0.2)
    group[who] = changed(group[who], ["layers.1.v_proj"], spike=6.0)
    found = audit(group, NAMES)
    assert (NAMES[who], "spectrum") in kinds(found)
    assert {f.adapter for f in found} == {NAMES[who]}
    hint = next(f for f in found if f.kind == "spectrum")
    assert hint.module == "layers.1.v_proj" and "1 of 12 modules" in hint.text
    assert "a hint, not a verdict" in hint.text and "2602.15195" in hint.text


def test_a_direction_planted_everywhere_is_named_once() -> None:
    """Red: levels are not compared: among its own modules, none of them stands out."""
    group = clean(6, decay=0.2)
    group[1] = changed(group[1], list(MODULES), spike=6.0)
    hints = [f for f in audit(group, NAMES) if f.kind == "spectrum"]
    assert [f.adapter for f in hints] == ["grid"]
    assert "12 of 12 modules" in hints[0].text


def test_two_adapters_have_no_cohort() -> None:
    """Red: SMALLEST_COHORT is 2."""
    group = clean(7)[:2]
    group[1] = changed(group[1], list(MODULES), 1000.0)
    (found,) = audit(group, NAMES[:2])
    assert (found.adapter, found.kind, found.level) == ("", "cohort", "note")


def test_concentration_by_hand() -> None:
    """Half and two quarters: odds of 1, and e^H = 2^1.5. Red: the shares are of all directions."""
    assert concentration((2.0, 1.0, 1.0, 7.0), 3) == pytest.approx((0.0, -math.log(2**1.5 - 1)))
    assert concentration((3.0, 3.0), 2) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert concentration((9.0, 1.0, 5.0), 2)[0] == pytest.approx(math.log(9))
    assert concentration((5.0, 0.0), 2) == pytest.approx((math.log(1e6),) * 2, abs=1e-3)


def test_adapters_that_cannot_be_read_are_no_cohort() -> None:
    """Red: they count as zero, and are said to have never been trained."""
    spectra = [{"x": (2.0, 1.0)}, {"x": (2.1, 1.0)}, {"x": (2.2, 1.0)}, {}]
    assert find_outliers(spectra, NAMES[:4]) == []


# --- fingerprint, modules, numbers


def test_factors_that_are_not_finite_are_named_and_dropped() -> None:
    """In memory, where nothing has checked them. Red: only A is looked at."""
    group = clean(8)
    factors = dict(group[2].factors)
    for name in ("layers.1.q_proj", "layers.0.v_proj"):
        f = factors[name]
        b = f.b.clone()
        b[3, 0] = math.nan
        factors[name] = replace(f, b=b)
    broken = [*group[:2], replace(group[2], factors=factors), *group[3:]]
    (found,) = audit(broken, NAMES)
    assert (found.adapter, found.kind, found.level, found.module) == (
        "materials",
        "unreadable",
        "problem",
        "layers.0.v_proj",
    )
    assert found.text.startswith("2 modules cannot be used.")
    whole = diagnose(broken, NAMES)
    assert whole.findings == (found,)
    assert whole.to_json()


def test_fingerprints_are_held_against_each_other() -> None:
    """Red: the first fingerprint is the usual one."""
    group = clean(9)
    group[0] = replace(group[0], fingerprint=Fingerprint("w2", "t1", "m1"))
    group[3] = replace(group[3], fingerprint=None)
    found = audit(group, NAMES)
    assert [(f.adapter, f.kind, f.level) for f in found] == [
        ("clinical", "fingerprint", "problem"),
        ("education", "fingerprint", "note"),
    ]
    assert "weights differ" in found[0].text
    (alone,) = audit([replace(a, fingerprint=None) for a in group], NAMES)
    assert (alone.adapter, alone.level) == ("", "note")


def test_modules_that_are_missing_or_of_another_shape() -> None:
    """Red: an adapter of another shape is compared all the same (and the diagnosis fails)."""
    group = clean(10)
    fewer = {m: f for m, f in group[1].factors.items() if m != "layers.0.q_proj"}
    group[1] = replace(group[1], factors=fewer)
    odd = Factors(torch.ones(2, 32), torch.ones(31, 2), 1.0)
    group[2] = replace(group[2], factors={**group[2].factors, "layers.2.q_proj": odd})
    found = audit(group, NAMES)
    assert [(f.adapter, f.kind, f.level, f.module) for f in found] == [
        ("materials", "shape", "problem", "layers.2.q_proj"),
        ("grid", "modules", "note", "layers.0.q_proj"),
    ]
    assert "(31, 32), not (32, 32)" in found[0].text
    assert diagnose(group, NAMES).findings == tuple(found)
    unsigned = audit([replace(a, fingerprint=None) for a in group], NAMES)
    assert ("grid", "modules", "problem") in [(f.adapter, f.kind, f.level) for f in unsigned]


def test_an_embedding_is_no_linear_layer() -> None:
    """Red: shapes alone are compared."""
    group = clean(11)
    group[4] = replace(group[4], embeddings=frozenset({"layers.0.q_proj"}))
    (found,) = audit(group, NAMES)
    assert found.kind == "shape" and "of an embedding" in found.text
