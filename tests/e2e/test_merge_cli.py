"""`cogen merge`: folders, names, recipes, cuts, removing an adapter, and what it refuses to overwrite."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cogen.adapter import Adapter, Factors, Fingerprint, factor_digest
from cogen.base import Base
from cogen.merge import merge_adapters
from tests.shell import Cogen, refused

FINGERPRINT = Fingerprint(weights="a" * 64, tokenizer="b" * 64, modules="c" * 64)


def expert(folder: Path, seed: int, rank: int = 2, **manifest: Any) -> Adapter:
    generator = torch.Generator().manual_seed(seed)
    factors = {
        f"layers.{i}.up": Factors(
            torch.randn(rank, 7, generator=generator), torch.randn(6, rank, generator=generator), 2.0
        )
        for i in range(2)
    }
    Adapter(factors, "base", FINGERPRINT, manifest).save(folder)
    return Adapter.load(folder)


@pytest.fixture
def two(tmp_path: Path) -> list[Adapter]:
    return [expert(tmp_path / "a", 1, domain="grid", num_tokens=300), expert(tmp_path / "b", 2, rank=3)]


def same(folder: str, expected: Adapter) -> bool:
    return Adapter.load(folder).digest == factor_digest(expected.factors)


def test_flags_are_the_call(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    code, out, err = cogen(
        "merge", tmp_path / "a", f"late={tmp_path}/b", "--out", "m", "--weights", "2,1", "--method", "ties",
        "--density", "0.5", "--space", "knots", "--calibrate", "pico", "--scale", "1.3", "--energy", "0.9", "--json",
    )  # fmt: skip
    assert (code, err) == (0, "")
    called = merge_adapters(
        two, [2, 1], method="ties", density=0.5, space="knots", calibrate="pico", scale=1.3, energy=0.9
    )
    assert same("m", called.adapter)
    values = json.loads(out)
    assert values["energy_cut_frac"] == pytest.approx(called.mean_energy_cut_frac) and values["error"] < 0.5
    manifest = json.loads(Path("m/cogen.json").read_text())
    assert [p["name"] for p in manifest["parents"]] == ["grid", "late"]
    assert manifest["space"] == "knots" and manifest["calibrate"] == "pico" and manifest["num_tokens"] == 300


def test_the_recipe_of_a_result_makes_it_again(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    """Red: paths in recipe.toml stay relative to the working folder."""
    assert cogen("merge", tmp_path / "a", tmp_path / "b", "--out", "deep/m", "--weights", "1,4", "--rank", "2")[0] == 0
    code, out, _ = cogen("merge", "deep/m/recipe.toml", "--out", "again")
    assert code == 0 and out.startswith("again: 2 adapters, rank 2, energy cut off ")
    for name in ("adapter_model.safetensors", "adapter_config.json", "cogen.json"):
        assert Path("again", name).read_bytes() == Path("deep/m", name).read_bytes()
    assert cogen("merge", "again/recipe.toml", "--scale", "3", "--out", "louder")[0] == 0
    assert same("louder", merge_adapters(two, [1, 4], rank=2, scale=3.0).adapter)


def test_without(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    """Oracle 13, from the command line."""
    three = [*two, expert(tmp_path / "c", 3, domain="ed")]
    folders = [tmp_path / n for n in "abc"]
    assert cogen("merge", *folders, "--out", "all", "--weights", "1,2,3", "--method", "tsv_m")[0] == 0
    assert cogen("merge", "all", "--without", "b", "--out", "left")[0] == 0
    assert same("left", merge_adapters([three[0], three[2]], [1, 3], method="tsv_m").adapter)
    assert cogen("merge", *folders, "--without", "b", "--without", "grid", "--out", "one")[0] == 0
    assert same("one", merge_adapters([three[2]]).adapter)
    refused(cogen("merge", "all", "--without", "x", "--out", "no"), "some of grid, b, ed, got 'x'")
    refused(cogen("merge", tmp_path / "a", "--without", "grid", "--out", "no"), "recipe.toml", "kind 'unknown'")
    expert(tmp_path / "c", 4, domain="ed")
    refused(cogen("merge", "all", "--without", "b", "--out", "no"), "sha256")
    refused(cogen("contributions", "all/recipe.toml"), "sha256")
    assert sorted(p.name for p in Path.cwd().iterdir()) == ["all", "left", "one"]


def test_what_is_there_stays(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    """Red: any folder is replaced."""
    Path("notes").mkdir()
    Path("notes/thesis.txt").write_text("years")
    Path("file").write_text("x")
    merge = ("merge", tmp_path / "a", tmp_path / "b", "--out")
    for out in ("notes", ".", "file"):
        refused(cogen(*merge, out), "--out")
        refused(cogen(*merge, out, "--overwrite"), "--out")
    assert Path("notes/thesis.txt").read_text() == "years"
    assert cogen(*merge, "m")[0] == 0
    refused(cogen(*merge, "m", "--scale", "2"), "--overwrite")
    assert cogen(*merge, "m", "--scale", "2", "--overwrite")[0] == 0
    assert same("m", merge_adapters(two, scale=2.0).adapter)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--method", "svd"], "mean with a rank"),
        (["--method", "nothing"], "iso_c, got 'nothing'"),
        (["--energy", "1.5"], "energy in (0, 1]"),
        (["--energy", "0.5", "--rank", "2"], "a rank or an energy"),
        (["--weights", "1,nan"], "finite weights"),
        (["--weights", "1,-1"], "finite weights >= 0"),
        (["--weights", "0,0"], "sum above 0"),
        (["--density", "0"], "density in (0, 1]"),
    ],
)
def test_settings_that_cannot_work(
    cogen: Cogen, two: list[Adapter], tmp_path: Path, args: list[str], words: str
) -> None:
    refused(cogen("merge", tmp_path / "a", tmp_path / "b", "--out", "m", *args), words)
    assert not list(Path.cwd().iterdir())


def test_input_that_cannot_be_used(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    refused(cogen("merge", tmp_path / "a"), "--out")
    refused(cogen("merge", f"={tmp_path}/a", "--out", "m"), "[NAME=]FOLDER")
    refused(cogen("merge", f"x={tmp_path}/a", f"x={tmp_path}/b", "--out", "m"), "'x' twice")
    refused(cogen("merge", "none.toml", "--out", "m"), "no such file")
    refused(cogen("merge", "none", "--out", "m"), "no such folder")
    weights = tmp_path / "a" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\xc0\x7f")
    refused(cogen("merge", tmp_path / "a", tmp_path / "b", "--out", "m"), "NaN or infinity in layers.1.up")
    assert not list(Path.cwd().iterdir())


def test_a_rank_above_what_there_is_takes_all_there_is(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    assert cogen("merge", tmp_path / "a", tmp_path / "b", "--rank", "99", "--out", "m")[0] == 0
    assert Adapter.load("m").rank == 5


def test_looking_first_writes_no_adapter(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    code, out, err = cogen("diagnose", tmp_path / "a", tmp_path / "b", "--out", "looked")
    assert code == 0, err
    assert "grid" in out and sorted(p.name for p in Path("looked").iterdir()) == ["diagnosis.html", "diagnosis.json"]
    code, out, _ = cogen("diagnose", tmp_path / "a", f"late={tmp_path}/b", "--json")
    assert code == 0 and json.loads(out)["format"] == 1


def test_search_and_contributions_refuse_what_they_cannot_use(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    folders = (tmp_path / "a", tmp_path / "b")
    search = ("search", *folders, "--out", "m")
    refused(cogen(*search), "--data NAME=PATH")
    refused(cogen(*search, "--try", "mean,nothing"), "'nothing'")
    refused(cogen(*search, "--budget", "3"), "budget of at least 10 trials")
    code, out, err = cogen(*search, "--scale", "2")  # the search finds it
    assert (code, out) == (2, "") and "No such option" in err and "--scale" in err
    refused(cogen("contributions", *folders), "--data NAME=PATH")
    refused(cogen("contributions", *folders, "--permutations", "1"), "4 permutations")
    refused(cogen("contributions", *folders, "--method", "nothing"), "iso_c, got 'nothing'")
    refused(cogen("diagnose", tmp_path / "a", tmp_path / "a"), "'grid' twice")
    text = f'[[adapters]]\npath = "{tmp_path}/a"\n[[overrides]]\nmodules = "up"\nscale = 2\n'
    (tmp_path / "r.toml").write_text(text)
    refused(cogen("search", tmp_path / "r.toml", "--out", "m"), "no overrides for cogen search")
    refused(cogen("contributions", tmp_path / "r.toml"), "no overrides for cogen contributions")
    Path("m").mkdir()
    Path("m/notes.txt").write_text("years")
    refused(cogen(*search, "--overwrite"), "a folder with other files")
    assert [p.name for p in Path.cwd().rglob("*")] == ["m", "notes.txt"]


def test_commands_read_a_recipe_and_leave_adapters_out(cogen: Cogen, two: list[Adapter], tmp_path: Path) -> None:
    """Red: diagnose compares the omitted adapter too."""
    expert(tmp_path / "c", 3, domain="ed")
    text = "".join(f'[[adapters]]\npath = "{tmp_path}/{name}"\n' for name in "abc")
    (tmp_path / "r.toml").write_text(text)
    code, out, err = cogen("diagnose", tmp_path / "r.toml", "--without", "grid", "--json")
    assert code == 0, err
    assert [a["name"] for a in json.loads(out)["adapters"]] == ["b", "ed"]


def test_a_search_is_merged_and_explained(cogen: Cogen, tiny: Base, tiny_folder: Path, tmp_path: Path) -> None:
    """Red: the recipe keeps the rule that it had before. Red: weights are left equal."""
    for seed, name in enumerate(("grid", "clinical")):
        generator = torch.Generator().manual_seed(seed)
        factors = {
            module: Factors(
                0.2 * torch.randn(2, d_in, generator=generator), 0.2 * torch.randn(d_out, 2, generator=generator), 1.0
            )
            for module, (d_out, d_in) in tiny.info.modules.items()
        }
        Adapter(factors, "tiny", tiny.info.fingerprint, {"domain": name}).save(tmp_path / name)
    seeds = Path(__file__).parents[2] / "seeds"
    text = ("--base", tiny_folder, "--data", f"grid={seeds}/grid.jsonl", "--validation-frac", "0.2")
    sizes = ("--max-tokens", 64, "--sequence-length", 32, "--json")
    folders = (tmp_path / "grid", tmp_path / "clinical")
    search = ("--try", "mean,ties:0.5", "--budget", 6, "--rank", 3)
    code, out, err = cogen("search", *folders, *search, *text, *sizes)
    assert code == 0, err
    only_looked = json.loads(out)
    assert not list(Path.cwd().iterdir())
    code, out, err = cogen("search", *folders, *search, "--out", "m", *text, *sizes)
    assert code == 0, err
    found = json.loads(Path("m/search.json").read_text())
    assert found == only_looked
    best = found["trials"][found["choice"]]
    adapters = [Adapter.load(folder) for folder in folders]
    rule = {k: v for k, v in best["rule"].items() if k != "rank"}
    assert same("m", merge_adapters(adapters, best["weights"], rank=3, **rule).adapter)
    assert json.loads(out)["rank"] == 3
    assert cogen("merge", "m/recipe.toml", "--out", "again")[0] == 0
    assert Adapter.load("again").digest == Adapter.load("m").digest
    code, out, err = cogen("contributions", "m/recipe.toml", *text, *sizes)
    assert code == 0, err
    values = json.loads(out)
    assert values["is_exact"] and set(values["adapters"]) == {"grid", "clinical"}
    base, combined = found["base"]["grid"], best["bits_per_byte"]["grid"]
    assert values["total"]["grid"] == pytest.approx(base - combined, abs=1e-6)
