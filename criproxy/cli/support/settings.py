"""Merges the command-line options of ``run`` into the configuration."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from criproxy.config.load import LoadedConfig, load
from criproxy.config.options import with_options
from criproxy.config.schema import Config


def configured(path: Path | None, options: Mapping[str, str | None]) -> LoadedConfig:
    """Load the file, if there is one, and apply the options, which take precedence.

    ``options`` has ``listen``, ``runtime_endpoint``, ``image_endpoint``, ``metrics_address``,
    ``log_format`` and ``log_level``; None where an option is not given. Raises UsageError.
    """
    loaded = LoadedConfig(Config()) if path is None else load(path)
    return with_options(loaded, options)


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
