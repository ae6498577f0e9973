"""The diagnosis: small cases by hand, one read a module, its file, its text.

"Red" names a change of the code, made once by hand, under which the test fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from cogen.adapter import Adapter, Factors, Layout
from cogen.analysis.diagnose import diagnose
from cogen.analysis.diagnosis import AdapterSummary, Diagnosis, EnergyAtRank, Family, Finding, Pair
from cogen.analysis.diagnosis_text import MOST_PAIRS, advice, format_diagnosis
from cogen.analysis.module_stats import family_of
from cogen.errors import MergeError, RunError


def rank_one(out: list[float], into: list[float], scaling: float = 1.0) -> Factors:
    return Factors(a=torch.tensor([into]).double(), b=torch.tensor([out]).double().T, scaling=scaling)


def one(f: Factors, module: str = "layers.0.q_proj") -> Adapter:
    return Adapter({module: f}, "")


PAIR = Pair("clinical", "grid", 0.16, 0.03, 0.08, 0.03, 0.05, 0.2, 0.4, 1.5)
SAMPLE = Diagnosis(
    adapters=(AdapterSummary("clinical", 8, 2, 3.0), AdapterSummary("grid", 8, 2, 2.0)),
    num_modules=2,
    pairs=(PAIR,),
    families=(Family("q_proj", 2, 1.0, 0.16, 0.03, 0.08, 0.03, 0.05, 0.2, 0.4, 30, 1),),
    num_directions=30,
    num_shared_directions=1,
    shared_energy_frac=0.07,
    energy_by_rank=(EnergyAtRank(1, 0.4), EnergyAtRank(2, 0.7), EnergyAtRank(4, 1.0)),
    rank_for_90=3,
    rank_for_99=4,
    factor_average_error=0.7,
    factor_average_reason="",
    findings=(Finding("grid", "norm", "hint", "", "Its norm is outsize."),),
)
QUIET = SAMPLE.model_copy(update={"findings": ()})


# --- by hand


def test_one_direction_shared_and_one_not() -> None:
    """delta = 2 e1 e1^T and 3 (e1 + e2)/sqrt2 e1^T: the outputs at 45 degrees, the inputs the same."""
    half = 0.5**0.5
    pair = diagnose([one(rank_one([2, 0, 0], [1, 0])), one(rank_one([half, half, 0], [1, 0], 3.0))], ["a", "b"]).pairs[
        0
    ]
    assert (pair.output_overlap, pair.output_chance) == pytest.approx((0.5, 1 / 3))
    assert (pair.input_overlap, pair.input_chance) == pytest.approx((1.0, 1 / 2))
    assert pair.cosine == pytest.approx(half)
    assert pair.norm_ratio == pytest.approx(2 / 3)


def test_an_update_and_its_opposite_conflict_everywhere() -> None:
    """Red: the conflict is the share of like signs."""
    f, opposite = rank_one([2, 1, 0], [1, 3]), rank_one([2, 1, 0], [1, 3], -1.0)
    found = diagnose([one(f), one(opposite)], ["a", "b"])
    pair = found.pairs[0]
    assert (pair.cosine, pair.meeting_frac, pair.sign_conflict_frac) == pytest.approx((-1.0, 1.0, 1.0))
    assert (found.energy_by_rank, found.rank_for_90, found.factor_average_error) == ((), None, None)
    assert found.factor_average_reason == "the mean of the updates is zero"
    assert "pull in opposite directions" in advice(found)


def test_copies_are_alike_in_everything() -> None:
    """Float32, three copies. Red: WHOLE is 1.01, so that what all have is not shared where r is near n."""
    generator = torch.Generator().manual_seed(0)
    f = Factors(torch.randn(4, 9, generator=generator), torch.randn(6, 4, generator=generator), 0.5)
    found = diagnose([one(f)] * 3, ["a", "b", "c"])
    for p in found.pairs:
        values = (p.output_overlap, p.input_overlap, p.cosine, p.meeting_frac, p.norm_ratio)
        assert values == pytest.approx((1.0,) * 5, abs=1e-5)
        assert p.sign_conflict_frac == pytest.approx(0.0, abs=1e-6)
    assert (found.num_directions, found.num_shared_directions) == (4, 4)
    assert found.shared_energy_frac == pytest.approx(1.0, abs=1e-5)
    assert found.factor_average_error == pytest.approx(0.0, abs=1e-3)
    assert found.energy_by_rank[-1] == EnergyAtRank(4, 1.0)
    assert advice(found).startswith("The updates are nearly the same")


def test_modules_apart_have_nothing_to_compare() -> None:
    """Red: a cosine of 0 where no module is in common."""
    found = diagnose([one(rank_one([1, 0], [1, 0]), "x"), one(rank_one([1, 0], [1, 0]), "y")], ["a", "b"])
    pair = found.pairs[0]
    assert (pair.output_overlap, pair.cosine, pair.sign_conflict_frac, pair.norm_ratio) == (None, None, None, 1.0)
    assert found.factor_average_reason == "not every adapter has x"
    quiet = found.model_copy(update={"findings": ()})
    assert advice(quiet).startswith("No two adapters change the same module")


def test_updates_of_zero_have_no_directions() -> None:
    """An adapter as training starts, B = 0, and a trained one, and two of them alone."""
    live, dead = rank_one([1, 2, 0], [1, 0]), rank_one([0, 0, 0], [1, 0])
    found = diagnose([one(live), one(dead)], ["live", "dead"])
    assert (found.num_directions, found.num_shared_directions) == (1, 0)
    assert (found.pairs[0].cosine, found.pairs[0].norm_ratio) == (None, None)
    assert found.energy_by_rank == (EnergyAtRank(1, 1.0),)
    nothing = diagnose([one(dead), one(dead)], ["a", "b"])
    assert (nothing.num_directions, nothing.energy_by_rank, nothing.shared_energy_frac) == (0, (), None)


def test_unequal_ranks_have_no_average_of_factors() -> None:
    """Red: the ranks are not looked at."""
    wide = Factors(torch.eye(3).double()[:2], torch.eye(4).double()[:, :2], 1.0)
    found = diagnose([one(wide), one(rank_one([1, 0, 0, 1], [1, 0, 1]))], ["a", "b"])
    assert (found.factor_average_error, found.factor_average_reason) == (
        None,
        "the ranks differ: 1 and 2 in layers.0.q_proj",
    )


def test_families_add_up_to_the_whole() -> None:
    """Red: the sums are not cut to pairs i < j."""
    generator = torch.Generator().manual_seed(3)

    def adapter(size: float) -> Adapter:
        names = ("layers.0.q_proj", "layers.1.q_proj", "layers.0.mlp.experts.7")
        return Adapter(
            {
                m: Factors(torch.randn(2, 8, generator=generator), torch.randn(9, 2, generator=generator), size)
                for m in names
            },
            "",
        )

    group = [adapter(1.0), adapter(2.0)]
    found = diagnose(group, ["a", "b"])
    assert {f.name: f.num_modules for f in found.families} == {"experts": 1, "q_proj": 2}
    assert sum(f.energy_frac for f in found.families) == pytest.approx(1.0)
    assert sum(f.num_directions for f in found.families) == found.num_directions == 12
    alone = diagnose([Adapter({m: f for m, f in a.factors.items() if "q_proj" in m}, "") for a in group], ["a", "b"])
    family = next(f for f in found.families if f.name == "q_proj")
    assert (family.cosine, family.output_overlap) == pytest.approx(
        (alone.pairs[0].cosine, alone.pairs[0].output_overlap)
    )
    assert family_of("3.4") == "3.4"


class OnDisk(Mapping[str, Factors]):
    """Factors that are read when asked for, and count how often."""

    def __init__(self, factors: dict[str, Factors]) -> None:
        self.factors, self.reads = factors, dict.fromkeys(factors, 0)
        self.layout = {m: Layout(*f.shape, f.rank) for m, f in factors.items()}

    def __getitem__(self, module: str) -> Factors:
        self.reads[module] += 1
        return self.factors[module]

    def __iter__(self) -> Iterator[str]:
        return iter(self.factors)

    def __len__(self) -> int:
        return len(self.factors)


def test_every_module_is_read_once() -> None:
    """Red: findings_of reads the factors again."""
    stored = [OnDisk({m: rank_one([1.0 + i, 2], [1, 0.5]) for m in "xyz"}) for i in range(3)]
    done: list[str] = []
    diagnose([Adapter(s, "") for s in stored], ["a", "b", "c"], progress=done.append)
    assert [s.reads for s in stored] == [{"x": 1, "y": 1, "z": 1}] * 3
    assert done == ["x", "y", "z"]


@pytest.mark.parametrize(
    ("count", "names", "got"),
    [(1, ["a"], "1 with modules"), (2, ["a", "a"], "'a' twice"), (2, ["a"], "1 names for 2 adapters")],
)
def test_what_cannot_be_compared_is_refused(count: int, names: list[str], got: str) -> None:
    with pytest.raises(MergeError, match=got):
        diagnose([one(rank_one([1, 0], [1, 0]))] * count, names)


# --- the file


def test_the_file_reads_back() -> None:
    """Red: from_json keeps lists."""
    assert Diagnosis.from_json(SAMPLE.to_json(), "here") == SAMPLE
    assert json.loads(SAMPLE.to_json())["format"] == 1
    assert SAMPLE.pair("grid", "clinical") == PAIR


def edited(path: list[Any], value: Any) -> str:
    values = json.loads(SAMPLE.to_json())
    at = values
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return json.dumps(values)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "JSON in UTF-8"),
        ("[]", "an object of format 1, got list"),
        (edited(["format"], 2), "got format 2"),
        (edited(["pairs"], None), "pairs to be a list, got None"),
        (edited(["pairs", 0, "cosine"], 1.5), r"pairs\.0\.cosine to be less than or equal to 1, got 1.5 \(here\)"),
        (edited(["pairs", 0, "cosine"], float("nan")), "got nan"),
        (edited(["pairs", 0, "output_overlap"], 1.1), r"output_overlap to be less than or equal to 1"),
        (edited(["pairs", 0, "norm_ratio"], True), "norm_ratio to be a valid number, got True"),
        (edited(["pairs", 0, "second"], "other"), "pairs of the adapters in the file, got 'other'"),
        (edited(["adapters", 0, "rank"], 1.5), "rank to be a valid integer, got 1.5"),
        (edited(["adapters", 0, "name"], None), "name to be a valid string, got None"),
        (edited(["adapters", 1, "name"], "clinical"), "clinical twice"),
        (edited(["findings", 0, "level"], "fatal"), "level to be 'problem', 'hint' or 'note', got 'fatal'"),
        (edited(["families", 0, "more"], 1), "no field families.0.more"),
        (edited(["num_modules"], None), "num_modules to be a valid integer, got None"),
        (edited(["shared_energy_frac"], -0.1), "shared_energy_frac to be greater than or equal to 0, got -0.1"),
    ],
)
def test_a_malformed_file_is_refused(text: str, said: str) -> None:
    """Red: the bounds of names that end in _overlap are dropped."""
    with pytest.raises(RunError, match=said):
        Diagnosis.from_json(text, "here")


# --- the text


def test_the_text_says_all_numbers() -> None:
    lines = format_diagnosis(SAMPLE).splitlines()
    assert lines[1].split() == ["clinical", "8", "2", "3"]
    row = next(line for line in lines if line.startswith("clinical · grid"))
    assert row.split()[3:] == ["16.0%", "3.0%", "8.0%", "3.0%", "+0.050", "20.0%", "40.0%", "1.5"]
    assert "over-shared output directions: 1 of 30, with 7.0% of the energy" in lines
    assert "energy of the mean by rank: 1: 40.0%, 2: 70.0%, 4: 100.0%; 90% at 3, 99% at 4" in lines
    assert "error if A and B were averaged apart: 70.0% of the mean's norm" in lines
    assert "hint  grid  Its norm is outsize." in lines
    assert lines[-1].startswith("advice: First see to the norm of grid")


def test_many_pairs_are_cut_to_the_most_overlapping() -> None:
    """Red: the first ones are shown."""
    count = MOST_PAIRS + 5
    pairs = tuple(replace(PAIR, second=f"g{i:02d}", output_overlap=0.2 + 0.01 * i) for i in range(count))
    text = format_diagnosis(QUIET.model_copy(update={"pairs": pairs}))
    assert f"the {MOST_PAIRS} of {count} pairs" in text
    assert "clinical · g04" not in text and "clinical · g05" in text


@pytest.mark.parametrize(
    ("pair", "values", "said"),
    [
        ({"output_overlap": 0.05, "input_overlap": 0.04}, {}, "hardly more than by chance: the mean at a searched"),
        ({}, {}, "by up to 13% of what is possible"),
        ({"cosine": -0.1, "meeting_frac": 0.3, "sign_conflict_frac": 0.67}, {}, "67% of what meets"),
        ({"cosine": -0.01, "meeting_frac": 0.03, "sign_conflict_frac": 0.67}, {}, "by up to 13%"),
        ({}, {"shared_energy_frac": 0.4}, "hold 40% of the energy: try calibrate = pico"),
        ({"cosine": 0.95}, {"shared_energy_frac": 0.9}, "nearly the same"),
        ({}, {"findings": (Finding("grid", "fingerprint", "problem", "", "Other."),)}, "First repair or omit grid"),
    ],
)
def test_advice_follows_the_numbers(pair: dict[str, Any], values: dict[str, Any], said: str) -> None:
    """Red: OPPOSED is 0.35, less than what unrelated updates have."""
    assert said in advice(QUIET.model_copy(update={"pairs": (replace(PAIR, **pair),), **values}))
