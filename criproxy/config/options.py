"""Command-line options that override the configuration file, at the start and at a reload."""

from collections.abc import Mapping
from dataclasses import replace as copy
from typing import Final

from msgspec.structs import replace

from criproxy.config.load import LoadedConfig
from criproxy.config.value_types import Address, parse_address
from criproxy.errors import UsageError
from criproxy.relay.endpoints import parse_endpoint

_LISTENER_KEYS: Final = {
    "endpoint": "listen",
    "runtime": "runtime_endpoint",
    "image": "image_endpoint",
}


def with_options(loaded: LoadedConfig, options: Mapping[str, str | None]) -> LoadedConfig:
    """Return a configuration in which the options override the file.

    ``options`` has ``listen``, ``runtime_endpoint``, ``image_endpoint``, ``metrics_address``,
    ``log_format`` and ``log_level``; None for those that were not given. Raises UsageError.
    """
    config = loaded.config
    listener = {
        key: parse_endpoint(value)
        for key, option in _LISTENER_KEYS.items()
        if (value := options.get(option)) is not None
    }
    if listener:
        if len(config.listeners) > 1:
            raise UsageError(
                "--listen, --runtime-endpoint and --image-endpoint speak of one listener and "
                f"{loaded.path} has {len(config.listeners)}; change the file instead"
            )
        config = replace(config, listeners=[replace(config.listeners[0], **listener)])
    log = {
        key: value
        for key, option in (("format", "log_format"), ("level", "log_level"))
        if (value := options.get(option)) is not None
    }
    if log:
        config = replace(config, log=replace(config.log, **log))
    address = options.get("metrics_address")
    if address is not None:
        try:
            metrics = replace(config.metrics, address=Address(parse_address(address)))
        except ValueError as error:
            raise UsageError(f"--metrics-address: {error}") from error
        config = replace(config, metrics=metrics)
    return copy(loaded, config=config, options=dict(options))
