"""Formats a configuration as YAML, with all defaults except those of rules."""

from decimal import Decimal
from typing import Any

import msgspec
import yaml

from criproxy.config.schema import Config
from criproxy.config.value_types import Address, Owner, format_address
from criproxy.configtypes.patterns import Pattern
from criproxy.configtypes.values import Duration, Mode, Size
from criproxy.relay.endpoints import Endpoint
from criproxy.rules.spec import RuleSpec


def show(config: Config) -> str:
    """Return a configuration as YAML, which parses to an equal configuration."""
    return yaml.safe_dump(_plain(config), sort_keys=False, width=100)


def _plain(value: Any) -> Any:
    if isinstance(value, RuleSpec):
        return _without_defaults(value)
    if isinstance(value, msgspec.Struct):
        return {name: _plain(getattr(value, name)) for name in value.__struct_fields__}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, Endpoint | Pattern):
        return str(value)
    if isinstance(value, Duration):
        return f"{Decimal(repr(float(value))).normalize():f}s"  # %g would round
    if isinstance(value, Mode):
        return f"{int(value):04o}"
    if isinstance(value, Size):
        return int(value)
    if isinstance(value, Owner):
        return ":".join("" if each is None else str(each) for each in value)
    if isinstance(value, Address):
        return format_address(value)
    return value


def _without_defaults(value: Any) -> Any:
    """Return a rule's keys without defaults, most of which are null."""
    if isinstance(value, msgspec.Struct):
        return {
            field.encode_name: _without_defaults(each)
            for field in msgspec.structs.fields(value)
            if (each := getattr(value, field.name)) != _default(field)
        }
    if isinstance(value, dict):
        return {key: _without_defaults(each) for key, each in value.items()}
    return [_without_defaults(each) for each in value] if isinstance(value, list) else _plain(value)


def _default(field: msgspec.structs.FieldInfo) -> Any:
    factory = field.default_factory
    return field.default if factory is msgspec.NODEFAULT else factory()
