"""Numbers as text for people; an unknown value becomes a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime

NOTHING = "–"
MINUS = "−"


def count(value: int | None) -> str:
    """1234567 -> `1,234,567`."""
    return NOTHING if value is None else f"{value:,}".replace("-", MINUS)


def short_count(value: float) -> str:
    """For axes: 1500 -> `1.5k`, 2000000 -> `2M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def byte_size(value: int | None) -> str:
    """Decimal units, three digits: 12345678 -> `12.3 MB`."""
    if value is None:
        return NOTHING
    size, unit = float(value), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        # 999.5 would round to 1000 of the smaller unit.
        if abs(size) < 999.5:
            break
        size, unit = size / 1000, larger
    digits = 0 if unit == "B" else max(0, 2 - math.floor(math.log10(abs(size) * 1.0005)))
    return f"{size:.{digits}f} {unit}"


def duration(seconds: float | None) -> str:
    """The two largest units: 3725 -> `1 h 2 min`; below ten seconds with one decimal."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def decimals(value: float | None, digits: int = 4, *, signed: bool = False) -> str:
    """A fixed number of decimals, with a real minus sign; a value that rounds to zero has no sign."""
    if value is None:
        return NOTHING
    if not math.isfinite(value):
        return "not finite"
    rounded = round(value, digits) or 0.0
    sign = "+" if signed and rounded > 0 else ""
    return f"{sign}{rounded:.{digits}f}".replace("-", MINUS)


def percent(frac: float | None, digits: int = 0, *, signed: bool = False) -> str:
    """A fraction in percent: 0.873 -> `87%`."""
    text = decimals(None if frac is None else 100 * frac, digits, signed=signed)
    return text if text in (NOTHING, "not finite") else text + "%"


def moment(text: str) -> str:
    """An ISO time in UTC to the minute; any other text unchanged."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return text
    utc = time.astimezone(UTC) if time.tzinfo else time
    return utc.strftime("%Y-%m-%d %H:%M UTC")
