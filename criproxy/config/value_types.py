"""Configuration values that are written as strings: owners, addresses, and those of configtypes."""

from ipaddress import ip_address
from typing import Any, Final

from criproxy.configtypes.patterns import Pattern, parse_pattern
from criproxy.configtypes.values import Duration, Mode, Size, parse_duration, parse_mode, parse_size
from criproxy.errors import EndpointError
from criproxy.relay.endpoints import Endpoint, parse_endpoint
from criproxy.relay.sockets import parse_owner

_LARGEST_PORT: Final = 65535


class Owner(tuple[int | None, int | None]):
    """A uid and a gid, written ``user``, ``user:group`` or ``:group``, as names or numbers."""

    __slots__ = ()


class Address(tuple[str, int]):
    """A host and a port, written ``127.0.0.1:9440`` or ``[::1]:9440``."""

    __slots__ = ()


def parse_address(text: str) -> tuple[str, int]:
    """Return a host and a port. Raises ValueError with a message for the user."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    is_port = port.isdecimal() and len(port) <= len(str(_LARGEST_PORT))
    if not host or bracketed != (":" in host) or not is_port or int(port) > _LARGEST_PORT:
        raise ValueError(f"{text!r} is not an address; write it like 127.0.0.1:9440 or [::1]:9440")
    return host, int(port)


def format_address(address: tuple[str, int]) -> str:
    """Return an address as it is written."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Return whether only processes on the same machine can connect to a host."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def decode(kind: type[Any], value: Any) -> Any:
    """Return a value of a type from a YAML scalar (msgspec's ``dec_hook``).

    Raises ValueError with a message for the user.
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
    if kind is Pattern and isinstance(value, str):
        return Pattern(parse_pattern(value))
    if kind is Mode and isinstance(value, str):
        return Mode(parse_mode(value))
    if kind is Mode:
        raise ValueError(
            f'a file mode has to be quoted, "0660": YAML reads it as {_brief(value)} here'
        )
    name = kind.__name__.lower()
    raise ValueError(f"expected {'an' if name[0] in 'aeo' else 'a'} {name}, got {_brief(value)}")


def _brief(value: Any) -> str:
    """Return a value for an error; a collection may be large, or multiplied by aliases."""
    if isinstance(value, dict):
        return "a mapping"
    return "a list" if isinstance(value, list | tuple | set) else repr(value)
