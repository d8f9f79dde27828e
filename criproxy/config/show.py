"""A configuration as a file again, with every default filled in."""

from decimal import Decimal
from typing import Any

import msgspec
import yaml

from criproxy.config.schema import Config
from criproxy.config.values import Address, Mode, Owner, Size
from criproxy.durations import Duration
from criproxy.relay.endpoints import Endpoint


def show(config: Config) -> str:
    """Write a configuration as YAML that reads back as the same."""
    return yaml.safe_dump(_plain(config), sort_keys=False, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Endpoint):
        return str(value)
    if isinstance(value, Duration):
        return f"{Decimal(repr(float(value))).normalize():f}s"  # what %g rounds is another value
    if isinstance(value, Mode):
        return f"{int(value):04o}"
    if isinstance(value, Size):
        return int(value)
    if isinstance(value, Owner):
        return ":".join("" if each is None else str(each) for each in value)
    if isinstance(value, Address):
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return value
