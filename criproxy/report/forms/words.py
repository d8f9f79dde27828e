"""Figures as people read them. Pure."""

from criproxy.common.printable import printable

NOTHING = "-"


def duration(seconds: float | None) -> str:
    """Return a duration as text: ``1 h 5 min``, ``31.2 s``, ``310 ms``, ``85 µs``."""
    if seconds is None:
        return NOTHING
    if seconds < 0.00095:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.095:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.0f} s" if seconds == int(seconds) else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min"


def size(number: float | None) -> str:
    """Return a number of bytes as text: ``512 B``, ``1.5 KiB``, ``16 MiB``."""
    if number is None:
        return NOTHING
    if number < 1024:
        return f"{number:.0f} B"
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1024 or unit == "GiB":
            break
    return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"


def count(number: int) -> str:
    """Return a number with its thousands apart: ``1,234``."""
    return f"{number:,}"


def rate(number: float) -> str:
    """Return a number for each second: ``12.5``."""
    return f"{number:.3g}" if number < 1000 else f"{number:.0f}"


def share(part: float | None) -> str:
    """Return a part of 1 in percent: ``2.5 %``."""
    if part is None:
        return NOTHING
    percent = 100 * part
    return "< 0.01 %" if 0 < percent < 0.01 else f"{percent:.3g} %"


def time(text: str) -> str:
    """Return a time in RFC 3339 without its microseconds: ``2026-11-28 04:57:53.079``."""
    return text.removesuffix("Z").replace("T", " ")[:23] or NOTHING


def name(text: str) -> str:
    """Return text of others in printable characters."""
    return printable(text) or NOTHING


def plural(number: int, noun: str) -> str:
    """Return a number of things: ``1 call``, ``2 calls``."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"
