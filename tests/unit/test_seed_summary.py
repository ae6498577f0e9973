"""The summary of several seeds, with every figure computed by hand."""

from __future__ import annotations

import json
import math

import pytest

from cogen.evaluate.matrix import Cell, Evaluation, format_table
from cogen.evaluate.seed_summary import Spread, summarize_seeds
from cogen.evaluate.seed_summary_file import SeedSummaryFile
from cogen.evaluate.seed_summary_text import format_seed_summary, member_lines

DOMAINS = ("grid", "clinical")


def evaluation(rows: dict[str, tuple[float, float]], general: dict[str, float] | None = None) -> Evaluation:
    """Row to its values on grid and clinical, and on general text."""
    cells = [Cell(m, d, v, 400, 100) for m, values in rows.items() for d, v in zip(DOMAINS, values, strict=True)]
    return Evaluation(
        cells=tuple(cells), general=tuple(Cell(m, "general", v, 40, 10) for m, v in (general or {}).items())
    )


def two_seeds(alone: str = "local") -> dict[int, Evaluation]:
    return {
        5: evaluation(
            {
                "base": (1.0, 2.0),
                f"{alone}:grid": (0.8, 1.9),
                f"{alone}:clinical": (0.95, 1.5),
                "combined": (0.7, 1.6),
                "centralized": (0.6, 1.4),
            },
            {"base": 3.0, "combined": 3.1, "centralized": 3.3},
        ),
        6: evaluation(
            {
                "base": (1.0, 2.0),
                f"{alone}:grid": (0.9, 1.8),
                f"{alone}:clinical": (0.85, 1.6),
                "combined": (0.75, 1.4),
                "centralized": (0.65, 1.2),
            },
            {"base": 3.0, "combined": 3.3},
        ),
    }


def test_a_spread_is_the_sample_standard_deviation() -> None:
    """Red: dividing by n, which gives 0.816."""
    assert Spread((1.0, 2.0, 3.0)).mean == 2.0
    assert Spread((1.0, 2.0, 3.0)).sd == 1.0
    assert Spread((1.0, None, 3.0)).mean == 2.0
    assert Spread((4.0, None)).sd is None
    assert Spread((None,)).mean is None and Spread((None,)).sd is None


def test_rows_and_general_text_over_two_seeds() -> None:
    found = summarize_seeds(two_seeds())
    assert found.seeds == (5, 6)
    assert found.models == ("base", "local:grid", "local:clinical", "combined", "centralized")
    assert found.rows["combined", "clinical"].values == (1.6, 1.4)
    assert found.rows["combined", "clinical"].mean == pytest.approx(1.5)
    assert found.rows["combined", "clinical"].sd == pytest.approx(math.sqrt(0.02))
    assert found.means["combined"].values == pytest.approx((1.15, 1.075))  # general text is not in it
    assert found.general["centralized"].values == (3.3, None)
    assert set(found.forgetting) == {"combined", "centralized"}
    assert found.forgetting["combined"].values == pytest.approx((0.1, 0.3))
    assert found.forgetting["combined"].sd == pytest.approx(math.sqrt(0.02))
    assert found.forgetting["centralized"].mean == pytest.approx(0.3)


@pytest.mark.parametrize("alone", ["local", "expert"])
def test_gain_and_members_are_compared_with_the_domain_alone(alone: str) -> None:
    """grid keeps 0.3 of 0.2 and 0.25 of 0.1; its own text gains 0.1 and 0.15, that of clinical 0.3 and 0.4."""
    found = summarize_seeds(two_seeds(alone))
    assert found.retained_gain["grid"].values == pytest.approx((1.5, 2.5))
    assert found.retained_gain["clinical"].values == pytest.approx((0.8, 1.5))
    assert found.members["grid"].own.values == pytest.approx((0.1, 0.15))
    assert found.members["grid"].others.values == pytest.approx((0.3, 0.4))
    assert found.members["clinical"].own.values == pytest.approx((-0.1, 0.2))
    assert found.members["clinical"].others.values == pytest.approx((0.25, 0.1))


def test_what_one_seed_lacks_is_null_and_leaves_the_other_standing() -> None:
    seeds = two_seeds()
    seeds[6] = Evaluation(cells=tuple(c for c in seeds[6].cells if c.model != "local:grid"))
    found = summarize_seeds(seeds)
    assert found.rows["local:grid", "grid"].values == (0.8, None)
    assert found.retained_gain["grid"].values == (pytest.approx(1.5), None)
    assert found.members["grid"].own.values == (pytest.approx(0.1), None)
    assert found.members["clinical"].own.values == pytest.approx((-0.1, 0.2))
    values = json.loads(SeedSummaryFile.of(found).to_json())
    row = next(r for r in values["rows"] if (r["model"], r["domain"]) == ("local:grid", "grid"))
    assert row == {"model": "local:grid", "domain": "grid", "mean": 0.8, "sd": None, "values": [0.8, None]}
    assert values["members"]["grid"]["own"]["sd"] is None


def test_a_single_domain_has_no_others() -> None:
    one = Evaluation(
        cells=tuple(Cell(m, "grid", v, 1, 1) for m, v in (("base", 1.0), ("expert:grid", 0.9), ("combined", 0.8)))
    )
    member = summarize_seeds({0: one}).members["grid"]
    assert member.own.mean == pytest.approx(0.1)
    assert member.others.mean is None


def test_the_file_has_the_keys_that_its_docstring_promises() -> None:
    values = json.loads(SeedSummaryFile.of(summarize_seeds(two_seeds())).to_json())
    assert set(values) == {"format", "seeds", "rows", "retained_gain", "general", "forgetting", "members"}
    assert values["format"] == 1 and values["seeds"] == [5, 6]
    assert len(values["rows"]) == 10
    assert values["general"][0] == {"model": "base", "mean": 3.0, "sd": 0.0, "values": [3.0, 3.0]}
    assert set(values["members"]) == set(values["retained_gain"]) == set(DOMAINS)


def test_general_text_is_a_column_of_its_own_and_in_no_mean() -> None:
    """Red: counting it as a domain."""
    seed = two_seeds()[5]
    assert seed.domains == DOMAINS
    table = format_table(seed).splitlines()
    assert table[0].split() == ["bits", "per", "byte", "grid", "clinical", "mean", "general"]
    assert table[1].split() == ["base", "1.0000", "2.0000", "1.5000", "3.0000*"]
    assert table[2].split() == ["local:grid", "0.8000", "1.9000", "1.3500", "-"]
    assert table[-2].split() == ["retained", "gain", "150.0%", "80.0%", "115.0%", "-"]
    assert table[-1].split() == ["combined", "-", "base", "-0.3000", "-0.4000", "-0.3500", "+0.1000"]
    again = Evaluation.from_json(seed.to_json(), "here")
    assert again == seed
    plain = evaluation({"base": (1.0, 2.0)})
    assert "general" not in plain.to_json()
    assert Evaluation.from_json(plain.to_json(), "here").general == ()


def words(line: str) -> str:
    return " ".join(line.split())


def test_the_table_has_means_with_their_spread() -> None:
    lines = format_seed_summary(summarize_seeds(two_seeds())).splitlines()
    assert lines[0].split() == ["bits", "per", "byte", "grid", "clinical", "mean", "general"]
    assert lines[1].split("  ")[0] == "base"
    assert words(lines[4]) == "combined 0.7250 ± 0.0354 1.5000 ± 0.1414 1.1125 ± 0.0530 3.2000 ± 0.1414"
    assert "0.6250 ± 0.0354*" in lines[5] and lines[5].endswith("3.3000")  # one seed has it: no spread
    assert words(lines[6]) == "retained gain 200.0 ± 70.7% 115.0 ± 49.5% - -"


def test_every_member_reads_what_joining_gave() -> None:
    """Red: the sign turned round, by which clinical, whose own text lost in one seed, would have won."""
    lines = list(member_lines(summarize_seeds(two_seeds())))
    assert lines == [
        "grid: joining improved your own held-out text by 0.1250 ± 0.0354 bits per byte over training alone, "
        "and improved others' by 0.3500 ± 0.0707",
        "clinical: joining improved your own held-out text by 0.0500 ± 0.2121 bits per byte over training alone, "
        "and improved others' by 0.1750 ± 0.1061",
        "general text: the combined model reads it worse by 0.2000 ± 0.1414 bits per byte than the base",
    ]
    first = list(member_lines(summarize_seeds({5: two_seeds()[5]})))
    assert first[1].startswith("clinical: joining worsened your own held-out text by 0.1000 bits per byte")
    assert first[-1] == "one seed: these figures have no spread (--seeds 3)"


def test_a_run_without_baselines_has_no_members_to_speak_to() -> None:
    """Several rounds over two seeds: no row of a domain alone, so nothing to compare with."""
    seeds = {
        n: Evaluation(cells=tuple(c for c in one.cells if not c.model.startswith("local:")))
        for n, one in two_seeds().items()
    }
    assert list(member_lines(summarize_seeds(seeds))) == []
    assert "retained" not in format_seed_summary(summarize_seeds(seeds))
