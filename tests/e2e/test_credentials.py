"""The credentials of pulls on a real containerd, from a registry that asks for them."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from criproxy.client import CriClient
from tests.support import registry
from tests.support.containerd import Containerd
from tests.support.criproxy import Criproxy
from tests.support.registry import PASSWORD, USER, Registry
from tests.support.requirements import require
from tests.support.waiting import LIMIT_SECONDS

pytestmark = pytest.mark.e2e

HUB = "docker.io/library/web:1"
"""The name that clients use. The runtime never asks Docker Hub: it is a name that it never sees."""

GOOD = {"username": USER, "password": PASSWORD}
WRONG = {"username": "kubelet", "password": "other-hunter2-secret"}
"""The credentials for Docker Hub."""

HUB_ADDRESS = "https://index.docker.io/v1/"
ENCODED = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


@pytest.fixture
def mirror(runtime: Containerd, short_dir: Path) -> Iterator[Registry]:
    """A registry that asks for credentials and has the image."""
    require(registry.missing())
    with Registry(short_dir / "registry", credentials=True) as mirror:
        mirror.push(runtime, "library/web:1")
        yield mirror
        with CriClient(runtime.endpoint, timeout=LIMIT_SECONDS) as direct:
            direct.RemoveImage(image={"image": f"{mirror.host}/library/web:1"})


def renaming(mirror: Registry) -> dict[str, Any]:
    return {"rewrite_images": [{"from": "docker.io/*", "to": f"{mirror.host}/*"}]}


def rewriting(mirror: Registry, **auth: str) -> dict[str, Any]:
    fields = {"image.image": f"{mirror.host}/library/web:1"}
    fields |= {f"auth.{name}": value for name, value in auth.items()}
    return {"rewrite": {"request": {path: f"'{value}'" for path, value in fields.items()}}}


def hooking(mirror: Registry) -> dict[str, Any]:
    """A rule with a script, which is in ``_hook`` and not of the rule."""
    name = f"{mirror.host}/library/web:1"
    script = f"async def request(call):\n    call.message.image.image = {name!r}\n"
    return {"hook": {"script": "hook.py", "timeout": f"{LIMIT_SECONDS:g}s"}, "_hook": script}


def pull(
    runtime: Containerd,
    directory: Path,
    version: str,
    rule: dict[str, Any],
    image: str = HUB,
    **auth: str,
) -> tuple[str, Criproxy]:
    """Return the error of a pull through a proxy with one rule, empty if it succeeds, and the
    proxy, which has ended."""
    rule = {"name": "mirror", "match": {"methods": ["*Image*", "*Container*"]}, **rule}
    (directory / "hook.py").write_text(rule.pop("_hook", ""))
    if "rewrite_images" not in rule:
        rule["match"] = {"methods": ["PullImage"]}
    audit = {
        "sinks": [{"file": {"path": str(directory / "audit.log")}}],
        "policy": [{"level": "RequestResponse"}],
    }
    config = {"rules": [rule], "audit": audit}
    with (
        Criproxy(directory, runtime.endpoint, config=config) as proxy,
        CriClient(proxy.endpoint, version, timeout=LIMIT_SECONDS) as client,
    ):
        try:
            client.PullImage(image={"image": image}, auth=auth)
            failure = ""
        except grpc.RpcError as error:
            failure = str(error.details())
        assert proxy.metric("criproxy_rule_errors_total") == 0
        assert proxy.stop() == 0
    told = proxy.process.stderr + (directory / "audit.log").read_text()
    for secret in (PASSWORD, WRONG["password"], ENCODED, "some-token"):
        assert secret not in told
    return failure, proxy


@pytest.mark.parametrize("action", [renaming, rewriting, hooking])
def test_dropped(
    runtime: Containerd, mirror: Registry, short_dir: Path, version: str, action: Any
) -> None:
    """Credentials for another registry are not sent to the mirror, even where they would open
    it."""
    error, _ = pull(runtime, short_dir, version, action(mirror), **GOOD)
    assert "401 Unauthorized" in error


@pytest.mark.parametrize("action", [renaming, rewriting, hooking])
@pytest.mark.parametrize(
    "auth",
    [GOOD, {"auth": ENCODED}, GOOD | {"server_address": HUB_ADDRESS}],
    ids=["password", "auth", "server_address"],
)
def test_kept(
    runtime: Containerd,
    mirror: Registry,
    short_dir: Path,
    version: str,
    action: Any,
    auth: dict[str, str],
) -> None:
    """With ``auth: keep`` the mirror is sent them, also if they name the other registry."""
    rule = action(mirror) | {"auth": "keep"}
    assert pull(runtime, short_dir, version, rule, **auth)[0] == ""


def test_others_named(runtime: Containerd, mirror: Registry, short_dir: Path, version: str) -> None:
    """The credentials that a rule names are sent, and nothing of the client's beside them."""
    clients = {"server_address": HUB_ADDRESS, "auth": "eDp5", "identity_token": "some-token"}
    rule = rewriting(mirror, **GOOD)
    assert pull(runtime, short_dir, version, rule, **WRONG, **clients)[0] == ""


def test_same_registry(
    runtime: Containerd, mirror: Registry, short_dir: Path, version: str
) -> None:
    """A pull whose registry no rule changes has its credentials."""
    image = f"{mirror.host}/library/web:1"
    address = f"http://{mirror.host}"
    auth = GOOD | {"server_address": address}
    assert pull(runtime, short_dir, version, renaming(mirror), image, **auth)[0] == ""


def test_dry_run(runtime: Containerd, mirror: Registry, short_dir: Path, version: str) -> None:
    """In dry-run the pull has its credentials, and what would become of them is logged without
    them."""
    image = f"{mirror.host}/library/web:1"
    elsewhere = {"rewrite_images": [{"from": f"{mirror.host}/*", "to": "mirror.invalid/*"}]}
    rule = elsewhere | {"mode": "dry-run"}
    error, proxy = pull(runtime, short_dir, version, rule, image, **GOOD)
    assert error == ""
    (line,) = proxy.events("dry-run", half="request")
    assert "mirror.invalid" in str(line["changes"])
    assert "auth" in str(line["changes"])
