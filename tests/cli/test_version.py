"""criproxy version."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from criproxy import __version__
from criproxy.cli import version
from criproxy.embedded.background import EmbeddedRuntime
from criproxy.errors import EndpointError, UnavailableError, UsageError
from criproxy.relay.endpoints import Endpoint


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(version.command, list(arguments))


@pytest.fixture
def endpoint(short_dir: Path) -> str:
    return f"unix://{short_dir}/cri.sock"


def test_four_lines(endpoint: str) -> None:
    """The answer is exactly four lines, each label followed by a colon and two spaces."""
    with EmbeddedRuntime(endpoint):
        result = invoke("--runtime-endpoint", endpoint)
    assert (result.exit_code, result.output) == (
        0,
        "Version:  0.1.0\n"
        "RuntimeName:  criproxy-embedded\n"
        f"RuntimeVersion:  {__version__}\n"
        "RuntimeApiVersion:  v1\n",
    )


def test_json_in_the_other_version(endpoint: str) -> None:
    """``-o json`` gives the same as an object, and --api-version chooses the API."""
    with EmbeddedRuntime(endpoint):
        result = invoke("--runtime-endpoint", endpoint, "--api-version", "v1alpha2", "-o", "json")
    assert json.loads(result.output) == {
        "version": "0.1.0",
        "runtimeName": "criproxy-embedded",
        "runtimeVersion": __version__,
        "runtimeApiVersion": "v1alpha2",
    }


def test_own_socket_is_asked_by_default(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint criproxy's own socket is asked if it is there."""
    own = Endpoint(endpoint.removeprefix("unix://"))
    monkeypatch.setattr(version, "DEFAULT_ENDPOINT", own)
    with EmbeddedRuntime(endpoint):
        assert "criproxy-embedded" in invoke().output


def test_runtime_is_asked_where_there_is_no_own_socket(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without criproxy's socket the runtime is asked that is found."""
    monkeypatch.setattr(version, "DEFAULT_ENDPOINT", Endpoint("/nonexistent/criproxy.sock"))
    monkeypatch.setattr(version, "find_runtime", lambda: Endpoint(endpoint[len("unix://") :]))
    with EmbeddedRuntime(endpoint):
        assert "criproxy-embedded" in invoke().output


@pytest.mark.parametrize("timeout", ["", "ten", "10", "0s", "0"])
def test_wrong_timeout_is_a_usage_error(endpoint: str, timeout: str) -> None:
    """A timeout that is no duration, or none at all, is named with the option."""
    error = invoke("--runtime-endpoint", endpoint, "--timeout", timeout).exception
    assert isinstance(error, UsageError)
    assert str(error).startswith("--timeout: ")


def test_wrong_endpoint_is_a_usage_error() -> None:
    """An endpoint that is no unix socket's is the user's mistake."""
    error = invoke("--runtime-endpoint", "tcp://127.0.0.1:1").exception
    assert isinstance(error, EndpointError)


def test_no_answer_is_unavailable(endpoint: str) -> None:
    """An endpoint that does not answer is no mistake of the user's."""
    error = invoke("--runtime-endpoint", endpoint).exception
    assert isinstance(error, UnavailableError)


def test_help_has_examples() -> None:
    """--help explains the options and shows how to use them."""
    result = invoke("--help")
    assert result.exit_code == 0
    assert "\n    criproxy version --runtime-endpoint unix:///run" in result.output
