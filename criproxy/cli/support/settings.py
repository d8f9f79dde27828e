"""Merges the command-line options of ``run`` into the configuration."""

from collections.abc import Mapping
from pathlib import Path

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
