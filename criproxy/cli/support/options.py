"""Command-line options that several commands share."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from criproxy.configtypes.values import parse_duration, parse_size
from criproxy.errors import UsageError
from criproxy.wire.grpc import StatusCode

_CODES: Final = frozenset(code.name for code in StatusCode) | {"UNREAD"}

_USUAL_CONFIG: Final = Path("/etc/criproxy/config.yaml")


def _parse(text: str, no_time: str | None) -> float:
    """Return seconds. ``no_time`` is what is said of a text that is 0 s; None: it may be.

    Raises ValueError.
    """
    seconds = parse_duration(text)
    if seconds == 0 and no_time is not None:
        raise ValueError(f"{text!r} {no_time}")
    return seconds


def duration(option: str, text: str, no_time: str | None = None) -> float:
    """Return the seconds of an option. ``no_time``: what is said of 0 s; None: it is allowed.

    Raises UsageError.
    """
    try:
        return _parse(text, no_time)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _seconds(
    _: click.Context, parameter: click.Parameter, text: str | None, no_time: str | None = None
) -> float | None:
    """Convert the text of an option to seconds."""
    try:
        return None if text is None else _parse(text, no_time)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error


def seconds_option(name: str, text: str, default: str | None = None) -> Callable[[Any], Any]:
    """Return the decorator that adds an option whose value is a duration, passed in seconds."""
    return click.option(
        name,
        callback=_seconds,
        metavar="D",
        default=default,
        show_default=default is not None,
        help=text,
    )


def duration_of(
    context: click.Context, parameter: click.Parameter, text: str | None
) -> float | None:
    """Convert the text of an option to seconds, more than none; None if it is not given."""
    return _seconds(context, parameter, text, "is no time; write it like 90s or 10m")


def size_of(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
    """Convert the text of an option to bytes; None if it is not given."""
    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=parameter) from error


def selection_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select calls or pods by namespace, name and duration."""
    for option in (
        click.option(
            "--slower-than",
            callback=_seconds,
            metavar="D",
            default="0",
            help="Only what takes as long: 500ms, 1m30s.",
        ),
        click.option(
            "--pod", "pods", metavar="GLOB", multiple=True, help="Pods by name. May be repeated."
        ),
        click.option(
            "-n",
            "--namespace",
            "namespaces",
            metavar="GLOB",
            multiple=True,
            help="Pods by namespace. May be repeated.",
        ),
    ):
        command = option(command)
    return command


def usual_config() -> Path | None:
    """Return the configuration that a command reads without ``-c``; None if it does not exist."""
    return _USUAL_CONFIG if _USUAL_CONFIG.exists() else None


def call_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that select calls; the command gets a CallFilter of them as ``wanted``."""

    @functools.wraps(command)
    def with_filter(
        *,
        methods: tuple[str, ...],
        namespaces: tuple[str, ...],
        pods: tuple[str, ...],
        callers: tuple[str, ...],
        codes: tuple[str, ...],
        slower_than: float,
        **others: Any,
    ) -> Any:
        from criproxy.timeline.filters import CallFilter

        wanted = CallFilter(methods, namespaces, pods, callers, codes, slower_than)
        return command(wanted=wanted, **others)

    with_options: Callable[..., Any] = with_filter
    for option in (
        click.option(
            "--code",
            "codes",
            metavar="CODE",
            multiple=True,
            callback=_codes,
            help="Calls that ended with a gRPC code: NOT_FOUND; '!OK' for those that failed. May "
            "be repeated.",
        ),
        click.option(
            "--caller",
            "callers",
            metavar="GLOB",
            multiple=True,
            help="Callers by the name or the path of their executable. May be repeated.",
        ),
        selection_options,
        click.option(
            "--method",
            "methods",
            metavar="GLOB",
            multiple=True,
            help="Methods as in rules: ExecSync, '*Image', 'ImageService/*', @mutating. May be "
            "repeated.",
        ),
    ):
        with_options = option(with_options)
    return with_options


def _codes(_: click.Context, parameter: click.Parameter, codes: tuple[str, ...]) -> tuple[str, ...]:
    """Check the names of codes."""
    for code in codes:
        if code.removeprefix("!") not in _CODES:
            raise UsageError(f"--code: {code!r} is no code of gRPC; write one like NOT_FOUND")
    return codes


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


def table_option(line: str) -> Callable[[Any], Any]:
    """Return the decorator that adds ``-o table|json``; ``line`` says what a line of JSON is."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["table", "json"]),
        default="table",
        show_default=True,
        help=f"A table, or JSON, one line {line}.",
    )


wide_option: Final = click.option(
    "--wide", is_flag=True, help="Show all of a table, whatever the terminal's width."
)
"""The decorator that adds ``--wide``."""


def time_options(since: str, until: str) -> Callable[[Any], Any]:
    """Return the decorator that adds ``--since`` and ``--until``, each with its description."""

    def add(command: Any) -> Any:
        last = click.option("--until", metavar="TIME", help=f"{until}, written like --since.")
        return click.option("--since", metavar="TIME", help=since)(last(command))

    return add
