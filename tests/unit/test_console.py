"""Tables, durations, bars without a terminal, and escaping of text from other machines."""

from __future__ import annotations

import pytest

from cogen import console
from cogen.console import BYTES, MODULES, TOKENS, TRIALS, Bar, Bars, duration, safe, safe_reply, table


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("grid", "grid"),
        ("a\x1b[2J\x1b[31mred\x1b[0m", "ared"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x9b31mred", "red"),
        ("bell\x07 and \x1bc reset", "bell and reset"),
        ("two\nlines\r\tand  a tab\u2028", "two lines and a tab"),
        ("turned \u202eround\u2066", "turned round"),
        ("surrogate \udcff", "surrogate "),
        ("Zürich 电网 é", "Zürich 电网 é"),
        (7, "7"),
    ],
)
def test_text_from_elsewhere_is_one_line_without_terminal_codes(text: object, shown: str) -> None:
    """Red: the escape character alone is removed, and `[2J` stays."""
    assert safe(text) == shown


def test_long_text_is_cut_at_a_length() -> None:
    assert safe("x" * 20, 10) == "x" * 7 + "..." and safe("x" * 10, 10) == "x" * 10
    assert len(safe("y" * 5000)) == console.MAX_CHARACTERS


def test_a_reply_keeps_its_lines_and_a_pipe_gets_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "one\n\ttwo\x1b[2J\x00"
    assert safe_reply(text) == text
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert safe_reply(text) == "one\n\ttwo[2J"


def test_a_table_aligns_what_is_shown() -> None:
    """Red: widths are taken before escapes are removed, or in characters."""
    rows = [["name", "bytes"], ["\x1b[31mgrid\x1b[0m", "7"], ["电网网", "1234"]]
    assert table(rows).splitlines() == ["name    bytes", "grid        7", "电网网   1234"]
    assert table(rows, num_left=2).splitlines()[1] == "grid    7"
    assert table([["a", "1"], ["b", "20*"]], marks="*").splitlines() == ["a   1", "b  20*"]


def test_durations() -> None:
    assert [duration(s) for s in (-1, 8.4, 59.6, 200, 3720)] == ["0s", "8s", "1m00s", "3m20s", "1h02m"]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("cogen.console.time.monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_bar_is_a_line_every_ten_seconds(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """Rate and time left by hand. Red: a line for each step."""
    with Bar("grid", TOKENS, 400) as bar:
        for second in range(1, 21):
            clock[0] = 100.0 + second
            bar.update(second * 10, "loss 2.00")
    assert capsys.readouterr().err.splitlines() == [
        "grid · 110/400 tokens · 10 tok/s · 29s left · loss 2.00",
        "grid · 200 tokens · 10 tok/s · 20s",
    ]


def test_every_unit_has_its_rate(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    for unit, amount in ((BYTES, 6e6), (TRIALS, 6), (MODULES, 6)):
        with Bar("work", unit, 4 * amount) as bar:
            clock[0] += 12
            bar.advance(amount, "now")
    assert capsys.readouterr().err.splitlines() == [
        "work · 6.0/24.0 MB · 0.5 MB/s · 36s left · now",
        "work · 6/24 trials · 2.0 s a trial · 36s left · now",
        "work · 6 trials · 2.0 s a trial · 12s",
        "work · 6/24 modules · 0.5 modules/s · 36s left · now",
    ]


def test_a_pass_over_the_work_has_a_clock_of_its_own(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """Red: the second pass is timed from the start of the first one."""
    with Bar("data", BYTES) as bar:
        bar.update_part("reading", 1_000_000, 0)
        clock[0] += 100
        bar.update_part("preparing", 1, 4_000_000)
        clock[0] += 11
        bar.update_part("preparing", 1_100_000, 4_000_000)
    assert capsys.readouterr().err.splitlines()[-1] == "data · preparing · 1.1/4.0 MB · 0.1 MB/s · 29s left"


def test_a_failure_prints_no_summary(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="no"), Bar("grid", TOKENS, 4):
        raise ValueError("no")
    assert capsys.readouterr().err == ""


def test_lines_are_safe_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Red: rich reads `[bold]` in a reason as markup."""
    with Bars() as bars:
        bars.say("grid dropped: [bold]\x1b[2Jfull\ndisk[/bold]")
        bars.end("none of that name")
    assert capsys.readouterr().err == "grid dropped: [bold]full disk[/bold]\n"
