"""Numbers as the report writes them."""

from __future__ import annotations

import math

import pytest

from cogen.report import units


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (units.byte_size(0), "0 B"),
        (units.byte_size(999), "999 B"),
        (units.byte_size(1000), "1.00 kB"),
        (units.byte_size(9_996), "10.0 kB"),
        (units.byte_size(12_345_678), "12.3 MB"),
        (units.byte_size(999_600_000), "1.00 GB"),
        (units.byte_size(123_456_789_012), "123 GB"),
        (units.duration(3.25), "3.2 s"),
        (units.duration(59.6), "1 min 0 s"),
        (units.duration(3725), "1 h 2 min"),
        (units.duration(None), "–"),
        (units.count(1234567), "1,234,567"),
        (units.short_count(1_500_000), "1.5M"),
        (units.decimals(-0.00001, signed=True), "0.0000"),
        (units.decimals(-0.5, 1), "−0.5"),
        (units.decimals(math.nan), "not finite"),
        (units.percent(0.0314, 1), "3.1%"),
        (units.percent(0.05, 1, signed=True), "+5.0%"),
        (units.percent(None), "–"),
        (units.moment("2026-11-22T04:00:30+02:00"), "2026-11-22 02:00 UTC"),
        (units.moment("2026-11-22T04:00:00"), "2026-11-22 04:00 UTC"),
        (units.moment("soon"), "soon"),
    ],
)
def test_numbers_as_people_read_them(written: str, expected: str) -> None:
    assert written == expected
