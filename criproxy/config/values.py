"""The kinds of value that the file's keys take, beside plain ones. Each is read from text."""

import re
from typing import Any, Final

from criproxy.durations import Duration, parse_duration
from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint, parse_endpoint
from criproxy.relay.sockets import parse_owner

_BYTES: Final = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_SIZE: Final = re.compile(r"(\d+) ?(|B|KiB|MiB|GiB)")
_LARGEST_MODE: Final = 0o777
_LARGEST_PORT: Final = 65535


class Size(int):
    """Bytes, written ``65536``, ``64KiB``, ``16MiB``."""


class Mode(int):
    """A file's permission bits, written as a string in octal: ``"0660"``."""


class Owner(tuple[int | None, int | None]):
    """A uid and a gid, written ``user``, ``user:group`` or ``:group``, names or numbers."""

    __slots__ = ()


class Address(tuple[str, int]):
    """A host and a port, written ``127.0.0.1:9440`` or ``[::1]:9440``."""

    __slots__ = ()


def parse_size(text: str) -> int:
    """Read a size in bytes. Raises ValueError, saying how to write one."""
    found = _SIZE.fullmatch(text)
    if not found:
        raise ValueError(f"{text!r} is not a size; write it like 65536, 64KiB or 16MiB")
    return int(found[1]) * _BYTES[found[2]]


def parse_mode(text: str) -> int:
    """Read permission bits. Raises ValueError, saying how to write them."""
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= _LARGEST_MODE:
        raise ValueError(f'{text!r} is not a file mode; write it in octal and quoted: "0660"')
    return mode


def parse_address(text: str) -> tuple[str, int]:
    """Read a host and a port. Raises ValueError, saying how to write them."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if not host or bracketed != (":" in host) or not port.isdecimal() or int(port) > _LARGEST_PORT:
        raise ValueError(f"{text!r} is not an address; write it like 127.0.0.1:9440 or [::1]:9440")
    return host, int(port)


def decode(kind: type[Any], value: Any) -> Any:
    """Make a value of one of the kinds above from what the YAML has (msgspec's dec_hook).

    Raises ValueError with the mend.
    """
    if kind is Endpoint and isinstance(value, str):
        try:
            return parse_endpoint(value)
        except EndpointError as error:
            raise ValueError(str(error)) from error
    if kind is Duration and isinstance(value, str | int) and not isinstance(value, bool):
        return Duration(parse_duration(str(value)))
    if kind is Size and isinstance(value, str | int) and not isinstance(value, bool):
        return Size(parse_size(str(value)))
    if kind is Owner and isinstance(value, str):
        return Owner(parse_owner(value))
    if kind is Address and isinstance(value, str):
        return Address(parse_address(value))
    if kind is Mode and isinstance(value, str):
        return Mode(parse_mode(value))
    if kind is Mode:
        raise ValueError(f'a file mode has to be quoted, "0660": YAML reads it as {value!r} here')
    name = kind.__name__.lower()
    raise ValueError(f"expected {'an' if name[0] in 'aeo' else 'a'} {name}, got {value!r}")
