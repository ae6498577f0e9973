"""Recipes: their meaning, which are refused, and the files with which a merge can be undone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import Adapter, Factors, Fingerprint, factor_digest
from cogen.errors import AdapterError, CogenError, ConfigError, MergeError
from cogen.merge import checksum, merge_adapters, self_check
from cogen.merge_folder import merge_recipe, open_all, recipe_of, save_checked, signed, without
from cogen.recipe import RECIPE_NAME, load_recipe

FINGERPRINT = Fingerprint(weights="a" * 64, tokenizer="b" * 64, modules="c" * 64)
MODULES = [f"model.layers.{i}.{n}" for i in range(3) for n in ("q_proj", "up_proj")]


def expert(folder: Path, seed: int, rank: int = 2, **manifest: Any) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        name: Factors(torch.randn(rank, 7, generator=generator), torch.randn(5, rank, generator=generator), 1.5)
        for name in MODULES
    }
    adapter = Adapter(factors, "base", FINGERPRINT, manifest)
    adapter.save(folder)
    return adapter


@pytest.fixture
def three(tmp_path: Path) -> list[Adapter]:
    return [
        expert(tmp_path / "in" / name, i, rank=i + 1, domain=name) for i, name in enumerate(["clinical", "grid", "ed"])
    ]


def recipe(tmp_path: Path, text: str, names: tuple[str, ...] = ("clinical", "grid", "ed")) -> Path:
    tables = "".join(f'[[adapters]]\npath = "in/{n}"\nweight = {i + 1}\n' for i, n in enumerate(names))
    head, _, tail = text.partition("---")
    path = tmp_path / "recipe.toml"
    path.write_text(head + "\n" + tables + tail)
    return path


def carried_out(path: Path) -> Any:
    found = load_recipe(path)
    return merge_recipe(found, open_all(found))


def same(left: Adapter, right: Adapter) -> bool:
    return factor_digest(left.factors) == factor_digest(right.factors)


def test_a_recipe_is_the_call_with_its_settings(tmp_path: Path, three: list[Adapter]) -> None:
    """Red: weights are dropped. Red: factors on disk in another order than in memory."""
    made = carried_out(recipe(tmp_path, 'method = "ties"\ndensity = 0.4\nscale = 1.5\nrank = 3'))
    called = merge_adapters(three, [1, 2, 3], method="ties", density=0.4, scale=1.5, rank=3)
    assert same(made.adapter, called.adapter)
    assert [p["name"] for p in made.adapter.manifest["parents"]] == ["clinical", "grid", "ed"]


def test_overrides_change_what_they_match(tmp_path: Path, three: list[Adapter]) -> None:
    """Red: an override's weights replace those it does not name. Red: settings leak to other modules.
    Red: a later override forgets the weights of an earlier one."""
    text = 'scale = 2.0\n---[[overrides]]\nmodules = "layers.0-1.*"\nscale = 0.5\nweights = { grid = 0.0 }\n'
    text += '[[overrides]]\nmodules = "layers.1.up_proj"\nmethod = "tsv_m"\n'
    made = carried_out(recipe(tmp_path, text)).adapter
    plain = merge_adapters(three, [1, 2, 3], scale=2.0).adapter
    fewer = merge_adapters(three, [1, 0, 3], scale=0.5).adapter
    other = merge_adapters(three, [1, 0, 3], scale=0.5, method="tsv_m").adapter
    for name in MODULES:
        expected = plain if "layers.2" in name else fewer
        expected = other if name == "model.layers.1.up_proj" else expected
        assert torch.equal(made.factors[name].a, expected.factors[name].a), name
    assert [o["modules"] for o in made.manifest["overrides"]] == ["layers.0-1.*", "layers.1.up_proj"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('methd = "ties"', "'method'"),
        ("scale = inf", "scale"),
        ('method = "linear"', "use mean"),
        ("rank = 0", "rank of 1 or more"),
        ('---[[overrides]]\nmodules = "attn"\n', "a pattern that some module matches"),
        ('---[[overrides]]\nmodules = "layers.0"\nweights = { grd = 1 }\n', "clinical, grid, ed, got 'grd'"),
        ('---[[overrides]]\nmodules = "layers.0"\nweights = { clinical = 0, grid = 0, ed = 0 }\n', "sum above 0"),
        ('---[[adapters]]\npath = "in/grid"\n', "'grid' twice"),
        ('---[[adapters]]\npath = "in/none"\n', "no such folder"),
        ('---[[adapters]]\npath = "in/ed"\nname = "x"\nsha256 = "00"\n', "factors with sha256 00"),
        ("rank = [", "TOML"),
    ],
)
def test_recipes_that_cannot_work(tmp_path: Path, three: list[Adapter], text: str, words: str) -> None:
    with pytest.raises(CogenError) as caught:
        carried_out(recipe(tmp_path, text))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_no_adapters_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text("adapters = []")
    with pytest.raises(ConfigError, match="adapters"):
        load_recipe(tmp_path / "r.toml")
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "none.toml")


def written(tmp_path: Path, text: str = "", name: str = "merged") -> Path:
    """What `cogen merge recipe.toml --out merged` leaves."""
    found = load_recipe(recipe(tmp_path, text))
    opened = open_all(found)
    merged, out = merge_recipe(found, opened), tmp_path / name
    save_checked(merged, out, {RECIPE_NAME: signed(found, opened).placed_in(out).to_toml().encode()})
    return out


@pytest.mark.parametrize("text", ["", "rank = 2", 'method = "iso_c"\nrank = 2', 'method = "dare"\ndensity = 0.5'])
def test_a_written_merge_says_how_far_it_is_from_what_was_meant(
    tmp_path: Path, three: list[Adapter], text: str
) -> None:
    """Red: the checksum is of the cut update. Red: self_check omits the root."""
    check = json.loads((written(tmp_path, text) / "cogen.json").read_text())["self_check"]
    settings = {"rank": 2} if "rank" in text else {}
    settings |= {"method": text.split('"')[1]} if "method" in text else {}
    settings |= {"density": 0.5} if "dare" in text else {}
    cut, whole = (merge_adapters(three, [1, 2, 3], **s).adapter for s in (settings, settings | {"rank": None}))
    off = sum(float((cut.factors[n].delta() - whole.factors[n].delta()).square().sum()) for n in MODULES)
    all_of_it = sum(float(whole.factors[n].delta().square().sum()) for n in MODULES)
    assert check["expected_error"] == pytest.approx((off / all_of_it) ** 0.5, abs=1e-5)
    assert check["error"] == pytest.approx(check["expected_error"], rel=0.4, abs=1e-6)


def test_a_result_that_is_not_what_was_meant_is_not_written(
    tmp_path: Path, three: list[Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red: has_passed is always True."""
    merged = merge_adapters(three, rank=3)
    name = MODULES[2]
    bad = dict(merged.adapter.factors)
    bad[name] = Factors(bad[name].a, bad[name].b * 1.5, 1.0)
    spoiled = type(merged)(
        Adapter(bad, "base", FINGERPRINT),
        merged.energy_cut_frac | dict.fromkeys(MODULES, 0.0),
        merged.energy,
        merged.checksums,
    )
    with pytest.raises(MergeError, match="merge failed its own check"):
        save_checked(spoiled, tmp_path / "out")
    assert not (tmp_path / "out").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_the_checksum_measures_the_frobenius_norm() -> None:
    """Mean over many names of |delta probe|^2 / 8 is |delta|^2. Red: probes of variance 2."""
    f = Factors(torch.randn(3, 40), torch.randn(30, 3), 0.7)
    found = [float(checksum(f, str(i)).square().sum()) / 8 for i in range(400)]
    assert sum(found) / 400 == pytest.approx(float(f.delta().square().sum()), rel=0.1)
    twin = {"x": f}
    assert self_check(twin, {"x": checksum(f, "x")}, 0.0).error == 0.0
    assert not self_check(twin, {"y": checksum(f, "y")}, 0.0).has_passed


def test_the_manifest_names_inputs_versions_and_what_each_module_lost(tmp_path: Path, three: list[Adapter]) -> None:
    values = json.loads((written(tmp_path, "energy = 0.8") / "cogen.json").read_text())
    assert [p["factors_sha256"] for p in values["parents"]] == [factor_digest(a.factors) for a in three]
    assert values["versions"]["peft"] and values["energy"] == 0.8
    assert set(values["modules"]) == set(MODULES)
    assert all(0 <= m["energy_cut_frac"] <= 0.2 and m["rank"] >= 1 for m in values["modules"].values())


def test_leaving_is_never_having_been_there(tmp_path: Path, three: list[Adapter]) -> None:
    """Oracle 13. Red: `without` keeps the weights of the others' sum. Red: paths are read from the working folder."""
    text = 'scale = 1.3\nrank = 3\n---[[overrides]]\nmodules = "layers.2"\nweights = { grid = 5, ed = 4 }\n'
    merged = written(tmp_path, text)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("in", "merged"):
        (tmp_path / name).rename(moved / name)
    found = recipe_of(moved / "merged")
    opened = open_all(found)
    assert opened.names == ["clinical", "grid", "ed"] and merged.name == "merged"
    left = without(found, opened.names, ["grid"])
    after = merge_recipe(left, open_all(left)).adapter
    never = merge_adapters([three[0], three[2]], [1, 3], scale=1.3, rank=3).adapter
    for name in MODULES[:4]:
        assert torch.equal(after.factors[name].b, never.factors[name].b)
    apart = merge_adapters([three[0], three[2]], [1, 4], scale=1.3, rank=3).adapter
    assert torch.equal(after.factors[MODULES[4]].b, apart.factors[MODULES[4]].b)


def test_what_cannot_be_left_says_why(tmp_path: Path, three: list[Adapter]) -> None:
    found = recipe_of(written(tmp_path))
    names = ["clinical", "grid", "ed"]
    for gone, words in ((["x"], "'x'"), (names, "all of them")):
        with pytest.raises(MergeError, match=words):
            without(found, names, gone)
    for round_number, words in ((1, "With one round"), (3, "Every later round was trained on top")):
        expert(tmp_path / "global", 9, kind="global", round=round_number)
        with pytest.raises(MergeError, match=words):
            recipe_of(tmp_path / "global")
    with pytest.raises(AdapterError, match="no such folder"):
        recipe_of(tmp_path / "nothing")
