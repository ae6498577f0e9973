"""What a domain is told, in words, of a request that is beyond the ordinary."""

from __future__ import annotations

from pathlib import Path

import pytest

from cogen.cli.join import JoinNarrator
from cogen.node.home import NodeHome
from cogen.node.known_models import KnownModels
from cogen.node.policy import Policy
from cogen.node.round_spec import default_round_spec
from cogen.node.unusual import unusual_round, unusual_scoring, unusual_settings, warning, warnings_in
from cogen.node.usage import Usage
from cogen.runs import append_line
from tests.member import some_member
from tests.shell import Cogen
from tests.unit.test_round_bounds import asked

MEMBER = some_member().model_copy(
    update={"round": default_round_spec().model_copy(update={"tokens_per_round": 8192, "batch_size": 1})}
)


def test_an_ordinary_round_is_passed_over() -> None:
    assert unusual_round(asked(), MEMBER, Policy()) == []
    # Less by the domain's own policy is ordinary.
    assert unusual_round(asked(rank=8), MEMBER, Policy(max_rank=8)) == []


@pytest.mark.parametrize(
    ("train", "line"),
    [
        ({"rank": 32}, "asks for rank 32 instead of 16 of the invite"),
        ({"rank": 8}, "asks for rank 8 instead of 16 of the invite"),
        ({"tokens_per_round": 9000}, "asks for 9000 tokens a round instead of 8192 of the invite"),
        ({"sequence_length": 256}, "asks for blocks of 256 tokens instead of 512 of the invite"),
        ({"batch_size": 2}, "asks for 2 blocks a step instead of 1 of the invite"),
        ({"target_modules": ["q_proj"]}, "asks for other layers than those of the invite"),
        ({"tokens_per_round": 512}, "asks for a short round: 1 steps, which count as 1"),
        ({"tokens_per_round": 10**12}, "asks for a round without end"),
    ],
)
def test_what_differs_from_the_invite_is_said(train: dict[str, object], line: str) -> None:
    assert line in unusual_round(asked(**train), MEMBER, Policy())


def test_a_member_without_a_round_in_its_invite_is_told_of_the_defaults() -> None:
    assert "asks for 8192 tokens a round instead of 20000 of the defaults" in unusual_round(
        asked(), some_member(), Policy()
    )


def test_what_only_the_domain_chooses_is_said_without_the_coordinators_words() -> None:
    window, cleaning = "another held-out part or other windows", "another cleaning of the text"
    header = {"settings": {"heldout": {"evil": 1}, "data": {}, "train": {"replay": "/secret", "annealing": None}}}
    lines = unusual_settings(header)
    assert lines == [
        f"asks for {what}, which is this domain's own choice" for what in (window, cleaning, "text to mix in")
    ]
    for other in ({}, {"settings": None}, {"settings": {"train": None}}, {"settings": {"train": {"replay": None}}}):
        assert unusual_settings(other) == []


def test_unknown_models_and_many_figures_are_said(tmp_path: Path) -> None:
    known, usage = KnownModels(tmp_path / "models.jsonl"), Usage(tmp_path / "u.jsonl", tmp_path / "r.jsonl")
    known.add("own", "o", 1, "key")
    policy = Policy(max_scorings_per_day=2)
    assert unusual_scoring({"expert:grid": "o", "zero": "base"}, known, usage, policy) == []
    assert unusual_scoring({"combined": "c"}, known, usage, policy) == []  # every run has one
    sharing = policy.model_copy(update={"max_shared_experts": 2})
    assert unusual_scoring({"combined": "c", "expert:a": "1", "expert:b": "2"}, known, usage, sharing) == []
    new = "asks for the score of {} models that this domain has not seen"
    assert unusual_scoring({"combined": "c", "other": "d"}, known, usage, policy) == [new.format(2)]
    known.add("combined", "c")
    for key in ("a", "b"):
        usage.begin("figure", key)
    assert unusual_scoring({"combined": "d"}, known, usage, policy) == [
        new.format(1),
        "asks for figures on a day that has had 2 of 2",
    ]


def test_join_and_receipts_say_it(tmp_path: Path, cogen: Cogen, capsys: pytest.CaptureFixture[str]) -> None:
    home = NodeHome(tmp_path / "member")
    home.make()
    home.write_member(MEMBER)
    line = warning("ab12", 3, ["asks for rank 32 instead of 16 of the invite"])
    append_line(home.work, line)
    append_line(home.work, {"action": "train", "run": "ab12", "round": 3})
    JoinNarrator(MEMBER).on_event({**line, "event": "work"})
    shown = capsys.readouterr().err
    assert "round 3 · beyond the ordinary: the coordinator asks for rank 32 instead of 16 of the invite" in shown
    out = cogen("receipts", "--folder", home.path)[1]
    assert "asked beyond the ordinary" in out and "round 3: asks for rank 32 instead of 16 of the invite" in out
    assert len(warnings_in([line])) == 1
