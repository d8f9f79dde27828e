"""Permission bits, as the configuration writes them."""

from typing import Final

_LARGEST_MODE: Final = 0o777


class Mode(int):
    """A file's permission bits, written as a string in octal: ``"0660"``."""


def parse_mode(text: str) -> int:
    """Read permission bits. Raises ValueError, saying how to write them."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _LARGEST_MODE:
        raise ValueError(f'{text!r} is not a file mode; write it in octal and quoted: "0660"')
    return mode
