"""Runs a daemon with a full listener and scoped ones, and a client on the full listener.

The configuration has every feature that the attacks exercise: profiles that deny and that hold, a
rule that names ``metadata``, rules that hold the kubelet's calls, and an audit log with redaction.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from bench.processes import pss_bytes
from criproxy.client import CriClient
from criproxy.concurrency.command_process import Startable
from criproxy.embedded.process import RuntimeProcess
from tests.attacks.inputs import Attack
from tests.support.criproxy import Criproxy
from tests.support.process import Process
from tests.support.waiting import LIMIT_SECONDS, wait_until

PODS: Final = 1_140
"""Number of pods with which a list of containers has about 1 MiB."""
GROWTH: Final = 256 << 20
"""Bytes by which all processes together may grow during an attack: the budget of held bytes is
64 MiB; the copies of held messages that are made while they are decoded and encoded, and what the
allocator keeps of them, are twice as much. It does not grow with the number of connections."""
JWT: Final = r"eyJ[\w-]+\.eyJ[\w-]+\.[\w-]+"
MIRROR: Final = "mirror.invalid.example/library/"

RULES: Final = [
    {
        "name": "metadata",
        "match": {"methods": ["Status"], "where": 'metadata["x"] == "never"'},
        "deny": {"code": "ABORTED"},
    },
    {
        "name": "privileged",
        "match": {
            "methods": ["CreateContainer"],
            "where": "request.config.linux.security_context.privileged",
        },
        "deny": {"code": "PERMISSION_DENIED"},
    },
    {
        "name": "mirror",
        "match": {"methods": ["PullImage"]},
        "rewrite": {"request": {"image.image": f'"{MIRROR}" + request.image.image'}},
    },
]
AUDIT_POLICY: Final = [
    {"level": "None", "methods": ["Version"]},
    {"level": "RequestResponse", "methods": ["ExecSync", "CreateContainer"]},
    {"level": "Metadata"},
]


class Daemon(Startable):
    """criproxy in front of an embedded runtime, with a full, two scoped and two split listeners.

    The daemon and the runtime are processes, from entering to leaving the block.
    """

    def __init__(self, directory: Path, **config: Any) -> None:
        self._runtime = RuntimeProcess(f"unix://{directory}/runtime.sock", "none", PODS)
        # The image service behind another path is another one for a listener.
        self._images = directory / "images.sock"
        self._directory = directory
        runtime = self._runtime.endpoint
        split = {"runtime": runtime, "image": f"unix://{self._images}"}
        listeners = [
            {"endpoint": self.endpoint("proxy"), "runtime": runtime},
            {"endpoint": self.endpoint("read-only"), "runtime": runtime, "profile": "read-only"},
            {"endpoint": self.endpoint("agents"), "runtime": runtime, "profile": "agents"},
            {"endpoint": self.endpoint("read-only-split"), **split, "profile": "read-only"},
            {"endpoint": self.endpoint("agents-split"), **split, "profile": "agents"},
        ]
        content = {
            "listeners": listeners,
            "profiles": {"agents": {"methods": ["@read", "@exec"], "namespaces": ["team-*"]}},
            "rules": RULES,
            "audit": {
                "policy": AUDIT_POLICY,
                "redact": {"values": [JWT]},
                "sinks": [{"file": {"path": str(directory / "audit.jsonl")}}],
            },
            "log": {"level": "info", "methods": {"*": "off"}},
            **config,
        }
        self.proxy = Criproxy(directory, config=content)
        self.sound = True
        """Whether the daemon has survived every test so far."""

    def endpoint(self, name: str) -> str:
        """Return a listener's endpoint: ``proxy`` is the full one."""
        return f"unix://{self._directory}/{name}.sock"

    def path(self, name: str) -> str:
        """Return a listener's path."""
        return f"{self._directory}/{name}.sock"

    def start(self) -> None:
        """Start the runtime and the daemon, and wait until both are ready."""
        self._runtime.start()
        self._images.symlink_to(self._runtime.endpoint.removeprefix("unix://"))
        self.proxy.start()

    def stop(self) -> None:
        """Kill the daemon, and stop the runtime."""
        self.proxy.kill()
        self._runtime.stop()
        self._images.unlink(missing_ok=True)

    def memory(self) -> int:
        """Return the proportional set size of all the daemon's processes, in bytes."""
        return sum(pss_bytes(self.proxy.process.pid).values())


class KubeletClient:
    """A kubelet's client on the full listener: each cycle makes a call that is relayed, one that a
    rule holds and one that a rule rewrites, and checks their results."""

    def __init__(self, endpoint: str, version: str = "v1") -> None:
        self._client = CriClient(endpoint, version, timeout=LIMIT_SECONDS)
        self._sandbox = self._client.ListPodSandbox().items[0].id
        self._number = 0

    def cycle(self) -> None:
        """Make the three calls. Raises grpc.RpcError for a failed call, AssertionError for a
        wrong result."""
        client = self._client
        self._number += 1
        assert client.Version().runtime_name == "criproxy-embedded"
        name = f"app:{self._number}"
        pulled = client.PullImage(image={"image": name}).image_ref
        wanted = client.ImageStatus(image={"image": MIRROR + name}).image.id
        assert pulled == wanted, f"{name} was pulled without being rewritten"
        config = {"metadata": {"name": f"c{self._number}"}, "image": {"image": pulled}}
        created = client.CreateContainer(pod_sandbox_id=self._sandbox, config=config)
        client.RemoveContainer(container_id=created.container_id)
        client.RemoveImage(image={"image": pulled})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()


@contextmanager
def attacking(attack: Attack, version: str, path: str, output: Path) -> Iterator[Process]:
    """Run an attack on the socket at ``path`` from before the block is entered until it is left."""
    argv = [sys.executable, "-m", "tests.attacks.attacker", attack.name, version, path]
    with Process(argv, output=output) as attacker:
        wait_until(
            lambda: attacker.stdout.startswith("began"),
            f"first bytes of {attack.name}",
            report=lambda: attacker.stderr,
        )
        yield attacker
        attacker.stop()
        assert json.loads(attacker.stdout.splitlines()[1])["connections"]
