"""Merges the command-line options of ``run`` into the configuration."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from msgspec.structs import replace

from criproxy.config.load import LoadedConfig, load
from criproxy.config.schema import Config
from criproxy.config.value_types import Address, parse_address
from criproxy.errors import UsageError
from criproxy.relay.endpoints import parse_endpoint


def configured(path: Path | None, options: Mapping[str, str | None]) -> LoadedConfig:
    """Load the file, if there is one, and apply the options, which take precedence.

    ``options`` has ``listen``, ``runtime_endpoint``, ``image_endpoint``, ``metrics_address``,
    ``log_format`` and ``log_level``; None where an option is not given. Raises UsageError.
    """
    loaded = LoadedConfig(Config()) if path is None else load(path)
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
                f"{path} has {len(config.listeners)}; change the file instead"
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
    return dataclasses.replace(loaded, config=config)


_LISTENER_KEYS = {"endpoint": "listen", "runtime": "runtime_endpoint", "image": "image_endpoint"}


def config_option(required: bool) -> Callable[[Any], Any]:
    """Return the decorator that adds the ``-c FILE`` option."""
    return click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE",
        required=required,
        help="The configuration file (YAML; config.example.yaml shows every key).",
    )
