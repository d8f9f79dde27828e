"""What is done with the package where systemd is process 1: ``scenario.py DIRECTORY``.

DIRECTORY has ``criproxy.deb``, ``newer.deb`` of a newer version, and ``kubelet.py``, the stand-in.
Runs by the system's Python, without packages. Each step ends with a line; the first that fails ends
it, with the log of the services, and exit status 1.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

RUNTIME = "/run/containerd/containerd.sock"
PROXY = "/run/criproxy/criproxy.sock"
SCOPED = "/run/criproxy/read-only.sock"
CONFIG = Path("/etc/criproxy/config.yaml")
PYTHON = "/opt/criproxy/bin/python"
UNITS = ("criproxy.service", "containerd.service", "kubelet.service")
LIMIT_SECONDS = 120.0

CONTAINERD_UNIT = f"""\
[Service]
RuntimeDirectory=containerd
ExecStart=/opt/criproxy/bin/criproxy runtime --listen {RUNTIME}
"""
KUBELET_UNIT = """\
[Service]
ExecStart=/usr/bin/kubelet --config=/var/lib/kubelet/config.yaml
Restart=always
RestartSec=1
[Install]
WantedBy=multi-user.target
"""
KUBELET_CONFIG = f"""\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://{RUNTIME}
healthzPort: 10248
"""
RELOADED = f"""
listeners:
- endpoint: unix://{PROXY}
  runtime: unix://{RUNTIME}
- endpoint: unix://{SCOPED}
  runtime: unix://{RUNTIME}
  profile: read-only
log: {{file: /var/log/criproxy/calls.jsonl}}
probe: {{direct_clients: 1s}}
audit: {{sinks: [{{file: {{path: /var/log/criproxy/audit.jsonl}}}}]}}
rules:
- name: hooked
  match: {{methods: [ListPodSandbox]}}
  hook: {{script: hook.py, timeout: 60s}}
"""
HOOK = """\
from criproxy.hook import Call


def request(call: Call) -> None:
    print("the hook was called", call.method)
"""
CALLER = f"""\
import sys, threading
import grpc
from criproxy.client import CriClient

ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
calls, failures = 0, []
with CriClient({PROXY!r}, timeout={LIMIT_SECONDS}) as client:
    while not ended.is_set():
        try:
            client.Version()
            calls += 1
            if calls == 1:
                print("calling", flush=True)
        except grpc.RpcError as error:
            failures.append(f"{{error.code().name}}: {{error.details()}}")
print(calls, *failures, sep="\\n")
"""


def run(*command: str, status: int = 0, seconds: float = LIMIT_SECONDS) -> str:
    """Run a command that has to end with this status; return what it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    assert done.returncode == status, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout + (done.stderr if status else "")


def timed(*command: str) -> str:
    """Run a command that may take long, and say how long it took."""
    began = time.monotonic()
    output = run(*command, seconds=LIMIT_SECONDS * 3)
    print(f"    {time.monotonic() - began:.1f} s: {' '.join(command)}", flush=True)
    return output


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Wait for something."""
    deadline = time.monotonic() + LIMIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {LIMIT_SECONDS:g} s: {what}"
        time.sleep(0.05)


def apt(*words: str, status: int = 0) -> str:
    return run("apt-get", "-q", "-y", *words, status=status)


def show(unit: str, key: str) -> str:
    return run("systemctl", "show", f"--property={key}", "--value", unit).strip()


def kubelet_at() -> str:
    """Return the socket that the running kubelet calls."""
    pid = show("kubelet.service", "MainPID")
    lines = run("journalctl", "-q", "-o", "cat", "-u", "kubelet.service").splitlines()
    found = [each.rpartition(" at ")[2] for each in lines if each.startswith(f"kubelet {pid} at ")]
    return found[-1].replace("//", "/") if found else ""


def version_at(path: str) -> str:
    return run("criproxy", "version", "--runtime-endpoint", f"unix://{path}", "--timeout", "60s")


def metric(name: str) -> list[str]:
    with urlopen("http://127.0.0.1:9440/metrics", timeout=LIMIT_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    return [line for line in lines if line.startswith(name)]


def files_of_node() -> dict[str, tuple[str, int, int]]:
    """Return contents, modes and owners of what an installation may change."""
    found = {}
    for top in ("/etc", "/var/lib/kubelet"):
        for path in sorted(Path(top).rglob("*")):
            if path.is_file() and not path.is_symlink():
                status = path.lstat()
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                found[str(path)] = (digest, status.st_mode, status.st_uid)
    return found


@contextmanager
def calling() -> Iterator[None]:
    """Have a client call without a pause, and see that not one of its calls fails."""
    with subprocess.Popen(
        [PYTHON, "-c", CALLER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "calling\n"
        yield
        output, _ = process.communicate(timeout=LIMIT_SECONDS)
    calls, *failures = output.splitlines()
    assert failures == [], failures
    print(f"    {calls} calls meanwhile, none failed", flush=True)


class Scenario:
    """The steps, in order; each is a method whose docstring is its line."""

    def __init__(self, directory: Path) -> None:
        self._files = directory
        self._before: dict[str, Any] = {}

    def package_is_installed(self) -> None:
        """apt installs the package; no service is enabled or started."""
        apt("install", "--no-install-recommends", str(self._files / "criproxy.deb"))
        assert run("systemctl", "is-active", "criproxy.service", status=3)
        assert run("systemctl", "is-enabled", "criproxy.service", status=1)

    def node_runs(self) -> None:
        """A runtime and a kubelet run, without criproxy."""
        kubelet = Path("/usr/bin/kubelet")
        kubelet.write_text(f"#!/bin/sh\nexec {PYTHON} {self._files}/kubelet.py / kubelet.service\n")
        kubelet.chmod(0o755)
        Path("/var/lib/kubelet").mkdir()
        Path("/var/lib/kubelet/config.yaml").write_text(KUBELET_CONFIG)
        Path("/etc/systemd/system/containerd.service").write_text(CONTAINERD_UNIT)
        Path("/etc/systemd/system/kubelet.service").write_text(KUBELET_UNIT)
        Path("/etc/criproxy/hook.py").write_text(HOOK)
        run("systemctl", "daemon-reload")
        run("systemctl", "enable", "-q", "--now", "containerd.service", "kubelet.service")
        wait_until(lambda: kubelet_at() == RUNTIME, f"the kubelet at {RUNTIME}")
        self._before = files_of_node()

    def install(self) -> None:
        """criproxy install moves the kubelet; systemd confines the service and listens for it."""
        answer = json.loads(timed("criproxy", "install", "--yes", "-o", "json"))
        assert answer["outcome"] == "installed", answer
        wait_until(lambda: kubelet_at() == PROXY, f"the kubelet at {PROXY}")
        for unit in ("criproxy.service", "criproxy.socket", "kubelet.service"):
            assert show(unit, "ActiveState") == "active", unit
        status = Path(f"/proc/{show('criproxy.service', 'MainPID')}/status").read_text()
        assert "\nSeccomp:\t2\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
        assert "RuntimeName:  criproxy-embedded" in version_at(PROXY)

    def reload(self) -> None:
        """systemctl reload puts a restricted listener, an audit log and a hook in force."""
        CONFIG.write_text(RELOADED)
        with calling():
            timed("systemctl", "reload", "criproxy.service")
            wait_until(lambda: Path(SCOPED).is_socket(), SCOPED)
            wait_until(lambda: Path("/var/log/criproxy/audit.jsonl").exists(), "the audit log")
        assert "RuntimeName:" in version_at(SCOPED)
        client = f"""\
from criproxy.client import CriClient
with CriClient({PROXY!r}, timeout=60) as client:
    client.ListPodSandbox()
"""
        run(PYTHON, "-c", client)
        assert not [
            each for each in metric("criproxy_rule_errors_total") if not each.endswith(" 0.0")
        ]
        assert [each for each in metric("criproxy_rule_matches_total") if '"hooked"' in each]

    def direct_client(self) -> None:
        """The confined daemon sees who is connected to the runtime past it."""
        client = (
            "import socket, sys; s = socket.socket(1); s.connect(sys.argv[1]); sys.stdin.read()"
        )
        with subprocess.Popen(["python3", "-c", client, RUNTIME], stdin=subprocess.PIPE):
            name = Path("/usr/bin/python3").resolve().name
            wait_until(
                lambda: [each for each in metric("criproxy_direct_connections") if name in each],
                f"{name} in the metric",
            )

    def nothing_is_refused(self) -> None:
        """What the daemon asks of the kernel is allowed by the unit: no limit is left unset."""
        log = run("journalctl", "-q", "-o", "cat", "-u", "criproxy.service")
        log += Path("/var/log/criproxy/calls.jsonl").read_text()
        assert "worker limit not set" not in log, log
        main = show("criproxy.service", "ControlGroup")
        pids = Path(f"/sys/fs/cgroup/systemd{main}/cgroup.procs")
        if not pids.exists():
            pids = Path(f"/sys/fs/cgroup{main}/cgroup.procs")
        nice = [os.getpriority(os.PRIO_PROCESS, int(pid)) for pid in pids.read_text().split()]
        assert max(nice) > 0, nice

    def restart(self) -> None:
        """Clients wait at systemd's socket while the service restarts."""
        with calling():
            timed("systemctl", "restart", "criproxy.service")

    def stop(self) -> None:
        """A client that connects while criproxy is stopped has it started by systemd."""
        run("systemctl", "stop", "criproxy.service")
        assert "RuntimeName:" in version_at(PROXY)
        assert show("criproxy.service", "ActiveState") == "active"

    def crash(self) -> None:
        """A client that connects after a crash waits until systemd has started criproxy anew."""
        run("systemctl", "kill", "--signal=KILL", "criproxy.service")
        assert "RuntimeName:" in version_at(PROXY)
        wait_until(lambda: show("kubelet.service", "ActiveState") == "active", "the kubelet")
        wait_until(lambda: kubelet_at() == PROXY, f"the kubelet at {PROXY}")

    def upgrade(self) -> None:
        """apt installs a newer version in place: no call fails, and the kubelet goes on."""
        kubelet, before = (show(u, "MainPID") for u in ("kubelet.service", "criproxy.service"))
        with calling():
            apt("install", "--no-install-recommends", str(self._files / "newer.deb"))
        after = show("criproxy.service", "MainPID")
        assert after not in {before, "0"}
        assert show("criproxy.service", "ActiveState") == "active"
        assert show("kubelet.service", "MainPID") == kubelet
        version = run("criproxy", "--version").split()[1]
        (line,) = metric("criproxy_build_info")
        assert f'version="{version}"' in line, line
        assert version.endswith(".1")

    def bypass(self) -> None:
        """criproxy bypass on gives clients the runtime's socket, and off takes it back."""
        timed("criproxy", "bypass", "on")
        assert os.readlink(PROXY) == RUNTIME
        assert "RuntimeName:" in version_at(PROXY)
        timed("criproxy", "bypass", "off")
        assert Path(PROXY).is_socket()
        assert "RuntimeName:" in version_at(PROXY)

    def remove_is_refused(self) -> None:
        """The package cannot be removed from under the kubelet."""
        assert "run criproxy uninstall first" in apt("remove", "criproxy", status=100)
        assert show("criproxy.service", "ActiveState") == "active"

    def uninstall(self) -> None:
        """criproxy uninstall gives the kubelet its runtime back, and every file is as before."""
        answer = json.loads(timed("criproxy", "uninstall", "--yes", "-o", "json"))
        assert answer["outcome"] == "uninstalled", answer
        wait_until(lambda: kubelet_at() == RUNTIME, f"the kubelet at {RUNTIME}")
        for unit in ("criproxy.service", "criproxy.socket"):
            assert show(unit, "ActiveState") == "inactive", unit
        after = files_of_node()
        edited = str(CONFIG)
        assert after.pop(edited)
        before = {path: found for path, found in self._before.items() if path != edited}
        assert after == before, dict(set(after.items()) ^ set(before.items()))

    def purge(self) -> None:
        """apt purges the package: nothing of it is left."""
        run("systemctl", "stop", "kubelet.service", "containerd.service")
        Path("/etc/criproxy/hook.py").unlink()
        apt("purge", "criproxy")
        for path in ("/opt/criproxy", "/etc/criproxy", "/var/log/criproxy", "/usr/bin/criproxy"):
            assert not Path(path).exists(), path
        assert show("criproxy.service", "LoadState") == "not-found"

    def steps(self) -> list[Callable[[], None]]:
        """Return the steps in the order in which they stand above."""
        return [
            getattr(self, name)
            for name, value in vars(type(self)).items()
            if callable(value) and not name.startswith("_") and name != "steps"
        ]


def main(directory: Path) -> int:
    """Run the steps; return the exit status."""
    for step in Scenario(directory).steps():
        began = time.monotonic()
        try:
            step()
        except Exception as error:
            print(f"FAIL {step.__name__}: {error!r}", flush=True)
            for unit in UNITS:
                log = subprocess.run(
                    ["journalctl", "-q", "--no-pager", "-n", "40", "-u", unit],
                    capture_output=True,
                    text=True,
                    check=False,
                )
                print(log.stdout, flush=True)
            return 1
        print(f"OK {time.monotonic() - began:6.2f} s  {step.__doc__}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
