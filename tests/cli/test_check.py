"""criproxy check."""

from pathlib import Path

from click.testing import CliRunner

from criproxy.cli.daemon import check
from criproxy.config.load import load, parse
from criproxy.errors import ConfigError

EXAMPLE = Path(__file__).resolve().parents[2] / "config.example.yaml"


def test_right_file_is_shown_in_full(tmp_path: Path) -> None:
    """A right file ends with status 0, and what would run is printed as a whole file."""
    path = tmp_path / "c.yaml"
    path.write_text("log: {level: debug}\n")
    result = CliRunner().invoke(check.command, ["-c", str(path)])
    assert result.exit_code == 0
    assert parse(result.output, "shown") == load(path).config
    assert "  level: debug\n" in result.output
    assert "- endpoint: unix:///run/criproxy/criproxy.sock\n" in result.output


def test_example_is_right() -> None:
    """The example configuration is."""
    assert CliRunner().invoke(check.command, ["-c", str(EXAMPLE)]).exit_code == 0


def test_wrong_file(tmp_path: Path) -> None:
    """A wrong file is a user's mistake, with the place and a suggestion."""
    path = tmp_path / "c.yaml"
    path.write_text("\nlog: {levle: debug}\n")
    error = CliRunner().invoke(check.command, ["-c", str(path)]).exception
    assert isinstance(error, ConfigError)
    assert str(error) == f"{path}:2: log.levle: no such key; did you mean 'level'?"


def test_file_is_needed() -> None:
    """Without a file there is nothing to check."""
    result = CliRunner().invoke(check.command, [])
    assert result.exit_code == 2
    assert "Missing option '-c' / '--config'" in result.output


def test_rules_are_compiled(tmp_path: Path) -> None:
    """Rules of the file and of rules_dir are compiled; the latter are not printed but counted."""
    path, directory = tmp_path / "c.yaml", tmp_path / "rules"
    directory.mkdir()
    path.write_text(
        f"rules: [{{name: a, match: {{methods: [Version]}}, deny: {{}}}}]\nrules_dir: {directory}\n"
    )
    more = directory / "b.yaml"
    more.write_text("- {name: b, match: {methods: [Status]}, deny: {}}\n")
    result = CliRunner().invoke(check.command, ["-c", str(path)])
    assert result.exit_code == 0
    assert result.output.endswith(f"# and 1 rules of {directory}\n")
    more.write_text("- {name: b, match: {methods: [Status], where: request.none}, deny: {}}\n")
    error = CliRunner().invoke(check.command, ["-c", str(path)]).exception
    assert isinstance(error, ConfigError)
    assert str(error).startswith(f"{more}:1: [0].match.where: ")
