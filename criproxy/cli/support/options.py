"""Command-line options that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


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


def output_option(lines: str) -> Callable[[Any], Any]:
    """Return the decorator that adds the ``-o text|json`` option; ``lines`` describes its text."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help=f"{lines} for people, or JSON for programs.",
    )
