"""`merge_adapters`: what it refuses, its error texts, and what it reports about its result."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import Adapter, Factors, Fingerprint, factor_digest
from cogen.errors import FingerprintMismatch, MergeError, RankError, WeightError
from cogen.merge import aggregate_updates, merge_adapters, normalise_weights, ties

FINGERPRINT = Fingerprint(weights="a" * 64, tokenizer="b" * 64, modules="c" * 64)
OTHER = Fingerprint(weights="a" * 64, tokenizer="d" * 64, modules="c" * 64)


def factors(seed: int, d_out: int = 6, d_in: int = 8, rank: int = 2) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    return Factors(torch.randn(rank, d_in, generator=generator), torch.randn(d_out, rank, generator=generator), 1.5)


def adapter(seed: int, modules: str = "xy", fingerprint: Fingerprint | None = FINGERPRINT, **manifest: Any) -> Adapter:
    return Adapter({m: factors(seed + ord(m)) for m in modules}, f"base-{seed}", fingerprint, manifest)


def test_manifest_names_the_parents_and_no_place_or_time() -> None:
    first, second = adapter(1, domain="grid", num_tokens=300), adapter(2, num_tokens=100)
    merged = merge_adapters([first, second], [3, 1], method="mean", scale=0.4, rank=3)
    manifest = dict(merged.adapter.manifest)
    assert manifest.pop("energy_cut_frac") == merged.mean_energy_cut_frac > 0
    assert manifest.pop("modules") == {n: {"rank": 3, "energy_cut_frac": merged.energy_cut_frac[n]} for n in "xy"}
    assert manifest == {
        "kind": "merge",
        "method": "mean",
        "scale": 0.4,
        "rank": 3,
        "parents": [
            {"name": "grid", "factors_sha256": factor_digest(first.factors), "weight": 0.75},
            {"name": "", "factors_sha256": factor_digest(second.factors), "weight": 0.25},
        ],
        "num_tokens": 400,
    }
    assert merged.adapter.base_name == "base-1" and merged.adapter.fingerprint == FINGERPRINT
    assert json.dumps(manifest)


@pytest.mark.parametrize(("method", "named"), [("ties", {"density"}), ("dare", {"density", "seed"}), ("mean", set())])
def test_manifest_names_the_settings_that_were_used(method: str, named: set[str]) -> None:
    manifest = merge_adapters([adapter(1)], method=method, density=0.5, seed=3).adapter.manifest
    assert manifest.keys() & {"density", "seed"} == named
    assert "num_tokens" not in manifest


def test_opted_out_tokens_are_not_counted() -> None:
    merged = merge_adapters([adapter(1, num_tokens=300), adapter(2, num_tokens=100)], [0, 1])
    assert merged.adapter.manifest["num_tokens"] == 100
    assert [p["weight"] for p in merged.adapter.manifest["parents"]] == [0, 1]


def test_energy_cut_is_over_all_modules_not_a_mean_of_fractions() -> None:
    group = [adapter(i) for i in range(3)]
    loud = [
        Adapter({**a.factors, "x": Factors(a.factors["x"].a, a.factors["x"].b, 30.0)}, "", FINGERPRINT) for a in group
    ]
    merged = merge_adapters(loud, method="mean", rank=2)
    values = {n: torch.linalg.svdvals(sum(a.factors[n].delta() for a in loud) / 3) for n in "xy"}
    gone = {n: float(v[2:].square().sum()) for n, v in values.items()}
    whole = {n: float(v.square().sum()) for n, v in values.items()}
    assert merged.energy_cut_frac == pytest.approx({n: gone[n] / whole[n] for n in "xy"}, rel=1e-4)
    assert merged.mean_energy_cut_frac == pytest.approx(sum(gone.values()) / sum(whole.values()), rel=1e-4)


def test_rank_is_what_was_asked_or_all_there_is() -> None:
    group = [adapter(1), adapter(2)]
    assert [merge_adapters(group, rank=r).adapter.rank for r in (1, 3, 4, 50)] == [1, 3, 4, 4]
    assert merge_adapters(group).adapter.rank == 4
    assert merge_adapters([adapter(i) for i in range(9)]).adapter.rank == 6
    assert merge_adapters([group[0], group[0]]).adapter.rank == 2
    assert all(f.scaling == 1.0 for f in merge_adapters(group, scale=3).adapter.factors.values())


def test_a_module_that_one_adapter_lacks_is_zero_there() -> None:
    wide, narrow = adapter(1, "xy"), adapter(2, "x")
    merged = merge_adapters([narrow, wide], [1, 3]).adapter
    torch.testing.assert_close(merged.factors["y"].delta(), 0.75 * wide.factors["y"].delta())
    assert set(merge_adapters([narrow, wide], [1, 0]).adapter.factors) == {"x"}


def test_without_a_fingerprint_the_modules_must_be_the_same() -> None:
    assert merge_adapters([adapter(1), adapter(2, fingerprint=None)]).adapter.fingerprint is None
    with pytest.raises(
        FingerprintMismatch, match=r"the 2 modules of adapter 1, got 1 modules, differing in y \(adapter 2"
    ):
        merge_adapters([adapter(1), adapter(2, "x", fingerprint=None, domain="grid")])


def test_fingerprints_must_be_equal() -> None:
    with pytest.raises(FingerprintMismatch, match=r"base tokenizer bbbbbbbbbbbb, got dddddddddddd \(adapter 3, 'a'"):
        merge_adapters([adapter(1), adapter(2, fingerprint=None), adapter(3, fingerprint=OTHER, domain="a")])


def test_shape_conflicts_name_module_and_both_shapes() -> None:
    odd = Adapter({"x": factors(1), "y": factors(2, d_in=9)}, "", FINGERPRINT)
    with pytest.raises(FingerprintMismatch, match=r"\(6, 8\), got \(6, 9\) \(y of adapter 2\)"):
        merge_adapters([adapter(1), odd], [1, 0])


@pytest.mark.parametrize(
    ("weights", "text"),
    [
        ([1.0], "expected 2 weights, got 1"),
        ([1.0, -0.5], "got 1, -0.5"),
        ([0.0, 0.0], "sum above 0, got 0, 0"),
        ([1.0, 1.0, 1.0], "expected 2 weights, got 3"),
        ([1.0, math.nan], "got 1, nan"),
        ([1.0, math.inf], "got 1, inf"),
    ],
)
def test_weights_that_mean_nothing(weights: list[float], text: str) -> None:
    with pytest.raises(WeightError, match=text):
        merge_adapters([adapter(1), adapter(2)], weights)
    with pytest.raises(WeightError, match=text):
        aggregate_updates(factors(1), [factors(2), factors(3)], weights, 2)


def test_weights_are_normalised() -> None:
    assert normalise_weights([1, 0, 3], 3) == [0.25, 0, 0.75]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"rank": 0}, RankError, "rank of 1 or more, got 0"),
        ({"method": "slerp"}, MergeError, "iso_c, got 'slerp'. It would act on A and B apart"),
        ({"method": "magic"}, MergeError, "got 'magic'. Choose a known method"),
        ({"method": "ties_svd"}, MergeError, "got 'ties_svd'. That is ties here"),
        ({"method": "linear"}, MergeError, "the mean of factors is not the mean of updates; use mean"),
        ({"space": "full"}, MergeError, "space to be one of core, knots, got 'full'"),
        ({"calibrate": "yes"}, MergeError, "calibrate to be one of none, pico"),
        ({"energy": 0.0}, MergeError, r"energy in \(0, 1\], got 0"),
        ({"energy": math.nan}, MergeError, "got nan"),
        ({"energy": 0.9, "rank": 3}, MergeError, "a rank or an energy, got both"),
        ({"method": "stack", "rank": 3}, MergeError, "stack without rank"),
        ({"density": 0.0}, MergeError, r"density in \(0, 1\], got 0"),
        ({"density": math.nan}, MergeError, "got nan"),
        ({"scale": math.inf}, MergeError, "finite scale, got inf"),
    ],
)
def test_settings_that_cannot_work(options: dict[str, Any], error: type[MergeError], text: str) -> None:
    with pytest.raises(error, match=text):
        merge_adapters([adapter(1)], **options)


def test_nothing_to_merge() -> None:
    with pytest.raises(MergeError, match="at least one adapter, got none"):
        merge_adapters([])


def test_ties_by_hand() -> None:
    cores = torch.tensor([[[4.0, -1.0, 0.5, 2.0]], [[2.0, 3.0, 0.1, -2.0]]])
    # Trimmed to two: [4, 0, 0, 2] and [2, 3, 0, -2], for the -2 is as large as the 2; then 2 and -2 cancel.
    assert ties(cores, [0.5, 0.5], 0.5).tolist() == [[3.0, 3.0, 0.0, 0.0]]
    assert ties(cores, [0.8, 0.2], 1.0)[0].tolist() == pytest.approx([3.6, -1.0, 0.42, 2.0])


def test_dare_repeats_by_seed_and_does_not_touch_the_global_generator() -> None:
    group, before = [adapter(1), adapter(2)], torch.get_rng_state()
    one, two, other = (merge_adapters(group, method="dare", density=0.5, seed=s).adapter.factors for s in (0, 0, 1))
    assert factor_digest(one) == factor_digest(two) != factor_digest(other)
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_tells_of_every_module() -> None:
    seen: list[str] = []
    merge_adapters([adapter(1, "xyz")], progress=seen.append)
    assert seen == ["x", "y", "z"]


def test_a_merge_is_an_adapter_folder_and_can_be_merged_again(tmp_path: Path) -> None:
    merged = merge_adapters([adapter(1, domain="a"), adapter(2, domain="b")], method="ties", density=0.7).adapter
    merged.save(tmp_path / "m")
    loaded = Adapter.load(tmp_path / "m")
    assert factor_digest(loaded.factors) == factor_digest(merged.factors) and loaded.fingerprint == FINGERPRINT
    again = merge_adapters([loaded, loaded], method="mean").adapter
    for name, f in merged.factors.items():
        torch.testing.assert_close(again.factors[name].delta(), f.delta(), rtol=1e-4, atol=1e-5)


def test_importing_the_package_leaves_torch_alone() -> None:
    code = "import sys, cogen.merge; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
