"""The evaluation matrix: values computed by hand, and every error in its file."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cogen.errors import RunError
from cogen.evaluate.matrix import Cell, Evaluation, NotMeasured, format_table, retained_gain

TABLE = """\
bits per byte    clinical      grid      mean
base               1.0000    1.2000    1.1000
expert:clinical    0.8000*   1.3000    1.0500
expert:grid             -    1.0000*        -
combined           0.8500    1.0100    0.9300*
retained gain       75.0%     95.0%     85.0%
combined - base   -0.1500   -0.1900   -0.1700
"""


def cell(model: str, domain: str, value: float) -> Cell:
    return Cell(model, domain, value, num_bytes=400, num_tokens=100)


def example() -> Evaluation:
    """Gains to keep: 0.2 on both domains; kept: 0.15 and 0.19. One cell is missing."""
    return Evaluation(
        cells=(
            cell("base", "clinical", 1.0),
            cell("base", "grid", 1.2),
            cell("expert:clinical", "clinical", 0.8),
            cell("expert:clinical", "grid", 1.3),
            cell("expert:grid", "grid", 1.0),
            cell("combined", "clinical", 0.85),
            cell("combined", "grid", 1.01),
        )
    )


def test_rows_and_columns_keep_their_first_appearance() -> None:
    evaluation = Evaluation(
        cells=(cell("centralized", "grid", 1.0), cell("base", "clinical", 1.0), cell("centralized", "clinical", 2.0))
    )
    assert evaluation.models == ("centralized", "base")
    assert evaluation.domains == ("grid", "clinical")


def test_a_cell_is_found_or_none() -> None:
    assert example().bits_per_byte("expert:clinical", "grid") == 1.3
    assert example().bits_per_byte("expert:grid", "clinical") is None


def test_a_mean_needs_every_domain() -> None:
    assert example().mean_bits_per_byte("base") == pytest.approx(1.1)
    assert example().mean_bits_per_byte("expert:grid") is None
    assert example().mean_bits_per_byte("nobody") is None


def test_retained_gain_by_hand() -> None:
    assert retained_gain(example()) == pytest.approx({"clinical": 0.75, "grid": 0.95})


def test_retained_gain_of_another_model() -> None:
    evaluation = Evaluation(cells=(*example().cells, cell("centralized", "grid", 1.3)))
    assert retained_gain(evaluation, "centralized") == {"clinical": None, "grid": pytest.approx(-0.5)}


@pytest.mark.parametrize("expert", [1.0, 1.1], ids=["nothing gained", "worse than base"])
def test_no_retained_gain_where_the_expert_gained_nothing(expert: float) -> None:
    cells = cell("base", "grid", 1.0), cell("expert:grid", "grid", expert), cell("combined", "grid", 0.9)
    assert retained_gain(Evaluation(cells=cells)) == {"grid": None}


def test_retained_gain_needs_the_own_expert() -> None:
    cells = cell("base", "grid", 1.0), cell("expert:clinical", "grid", 0.8), cell("combined", "grid", 0.9)
    assert retained_gain(Evaluation(cells=cells)) == {"grid": None}


def test_table_as_a_whole() -> None:
    assert format_table(example()) == TABLE


def test_table_without_combined_has_no_summary() -> None:
    lines = format_table(Evaluation(cells=(cell("base", "grid", 1.0), cell("mine", "grid", 0.9)))).splitlines()
    assert [line.split()[0] for line in lines] == ["bits", "base", "mine"]
    assert lines[-1].split() == ["mine", "0.9000*", "0.9000*"]


def test_table_without_experts_has_the_difference_alone() -> None:
    text = format_table(Evaluation(cells=(cell("base", "grid", 1.0), cell("combined", "grid", 1.25))))
    assert "retained gain" not in text
    assert text.splitlines()[-1].split() == ["combined", "-", "base", "+0.2500", "+0.2500"]


def test_a_single_model_is_not_called_best_and_a_tie_is_marked_twice() -> None:
    assert "*" not in format_table(Evaluation(cells=(cell("base", "grid", 1.0),)))
    tie = format_table(Evaluation(cells=(cell("base", "grid", 1.0), cell("mine", "grid", 1.0))))
    assert tie.count("1.0000*") == 4


def test_wide_characters_keep_the_columns_in_line() -> None:
    lines = format_table(Evaluation(cells=(cell("base", "grid", 1.0), cell("医療", "grid", 0.9)))).splitlines()
    assert lines[1].index("1.0000") == lines[2].index("0.9000") + 2


def test_json_round_trip() -> None:
    evaluation = Evaluation(cells=(*example().cells, cell("名前", 'a"b', 0.1 + 0.2)))
    assert Evaluation.from_json(evaluation.to_json(), "here") == evaluation
    assert Evaluation.from_json(Evaluation(cells=()).to_json(), "here").models == ()


def test_json_is_the_agreed_format() -> None:
    text = Evaluation(cells=(cell("base", "clinical", 0.81),)).to_json()
    row = {"model": "base", "domain": "clinical", "bits_per_byte": 0.81, "num_bytes": 400, "num_tokens": 100}
    assert json.loads(text) == {"format": 1, "cells": [row]}


@pytest.mark.parametrize(
    "text", ["", '{"format": 1, "cells": [', "[]", "{}", '{"format": 2, "cells": []}', '{"format": 1}']
)
def test_text_that_is_no_evaluation(text: str) -> None:
    with pytest.raises(RunError, match=r"cannot read evaluation\.json: .*run/evaluation\.json"):
        Evaluation.from_json(text, "run/evaluation.json")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"bits_per_byte": "0.8"}, "cells.1.bits_per_byte to be a valid number, got '0.8'"),
        ({"bits_per_byte": float("nan")}, "cells.1.bits_per_byte to be a finite number, got nan"),
        ({"bits_per_byte": -0.1}, "cells.1.bits_per_byte to be greater than or equal to 0, got -0.1"),
        ({"bits_per_byte": True}, "cells.1.bits_per_byte to be a valid number, got True"),
        ({"num_bytes": 0}, "cells.1.num_bytes to be greater than 0, got 0"),
        ({"num_tokens": 1.5}, "cells.1.num_tokens to be a valid integer, got 1.5"),
        ({"domain": ""}, "cells.1.domain to have at least 1 character, got ''"),
        ({"model": 3}, "cells.1.model to be a valid string, got 3"),
        ({"extra": 1}, "no field cells.1.extra, got 1"),
    ],
)
def test_a_malformed_cell_is_named(change: dict[str, Any], complaint: str) -> None:
    good = {"model": "base", "domain": "grid", "bits_per_byte": 0.8, "num_bytes": 4, "num_tokens": 1}
    text = json.dumps({"format": 1, "cells": [good, {**good, "model": "mine", **change}]})
    with pytest.raises(RunError) as caught:
        Evaluation.from_json(text, "there")
    assert complaint in str(caught.value)
    assert "cannot read evaluation.json" in str(caught.value) and "(there)" in str(caught.value)


def test_a_cell_that_is_there_twice_is_refused() -> None:
    text = Evaluation(cells=(cell("base", "grid", 1.0), cell("base", "grid", 0.9))).to_json()
    with pytest.raises(RunError, match="base on grid twice"):
        Evaluation.from_json(text, "there")


def test_missing_cells_have_their_reasons_below_the_table() -> None:
    gaps = (
        NotMeasured("expert:a", "b", "not shared by its domain"),
        NotMeasured("expert:a", "c", "not shared by its domain"),
        NotMeasured("base", "d", "its node is not connected"),
        NotMeasured("combined", "d", "its node is not connected"),
    )
    found = Evaluation(cells=(cell("base", "b", 1.0), cell("base", "c", 1.0)), not_measured=gaps)
    assert format_table(found).splitlines()[-2:] == [
        "not measured: expert:a on b, c: not shared by its domain",
        "not measured: base, combined on d: its node is not connected",
    ]
    assert Evaluation.from_json(found.to_json(), "x") == found
