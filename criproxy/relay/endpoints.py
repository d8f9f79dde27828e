"""Parses socket endpoints as the kubelet and crictl write them, and finds the runtime's."""

import stat
from pathlib import Path
from typing import Final

from criproxy.errors import EndpointError
from criproxy.relay.socket_errors import describe_error
from criproxy.relay.unary import find_cri_error

MAX_PATH_BYTES: Final = 107
"""The longest socket path: sun_path has 108 bytes, one of them the closing NUL (unix(7))."""

WELL_KNOWN: Final = (
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
    "/var/run/cri-dockerd.sock",
    "/var/run/dockershim.sock",
    "/run/k3s/containerd/containerd.sock",
    "/run/k0s/containerd.sock",
    "/var/snap/microk8s/common/run/containerd.sock",
)
"""Where runtimes listen: those that crictl tries by default (containerd, CRI-O, cri-dockerd,
dockershim), then those of distributions."""

ROOTLESS: Final = "/run/user"
ROOTLESS_SOCKETS: Final = ("*/containerd.sock", "*/*/containerd.sock", "*/*/*/containerd.sock")
"""Where the sockets of users' own runtimes are; they are never chosen unless they are named."""
_PROBE_SECONDS: Final = 2.0
"""Seconds within which a runtime has to answer to be found."""


class Endpoint:
    """A unix socket's address. ``str()`` returns ``unix:///path``, as the kubelet writes it."""

    __slots__ = ("path",)

    def __init__(self, path: str) -> None:
        """``path`` is absolute; :func:`parse_endpoint` parses what users write."""
        self.path = path

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Endpoint) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"Endpoint({self.path!r})"

    def __str__(self) -> str:
        return f"unix://{self.path}"


def parse_endpoint(text: str) -> Endpoint:
    """Parse ``unix:///path``, ``unix://path`` or a bare path, as the kubelet and crictl do.

    Raises EndpointError for any other scheme, an empty or relative path, and a path over 107
    bytes.
    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        if text.startswith("unix:"):
            rest = text.removeprefix("unix:")
        elif ":" in text.split("/", 1)[0]:
            raise EndpointError(
                f"endpoint {text!r}: only unix sockets are supported; "
                "write it as unix:///path/to.sock"
            )
        else:
            rest = text
    elif scheme != "unix":
        raise EndpointError(
            f"endpoint {text!r}: scheme {scheme!r} is not supported; write it as "
            "unix:///path/to.sock"
        )
    if not rest:
        raise EndpointError(f"endpoint {text!r}: the path is empty; write unix:///path/to.sock")
    if not rest.startswith("/"):
        if not separator:
            raise EndpointError(
                f"endpoint {text!r}: not an absolute path; write it as unix:///path/to.sock"
            )
        rest = "/" + rest
    if "\0" in rest:
        raise EndpointError(f"endpoint {text!r}: a socket path cannot contain a NUL byte")
    if rest.endswith("/"):
        raise EndpointError(
            f"endpoint {text!r}: names a directory; write the socket's own path, as in "
            "unix:///path/to.sock"
        )
    try:
        size = len(rest.encode())
    except UnicodeEncodeError:  # it is written to logs and metrics, in UTF-8
        raise EndpointError(f"endpoint {text!r}: a socket path has to be UTF-8") from None
    if size > MAX_PATH_BYTES:
        raise EndpointError(
            f"endpoint {text!r}: the path has {size} bytes and a unix socket's may have at most "
            f"{MAX_PATH_BYTES}; choose a shorter one"
        )
    return Endpoint(rest)


def find_runtime(
    candidates: tuple[str, ...] = WELL_KNOWN,
    within: float = _PROBE_SECONDS,
    rootless: Path = Path(ROOTLESS),
) -> Endpoint:
    """Return the first well-known endpoint that answers the CRI, within ``within`` seconds.

    Raises EndpointError, with what was found at each candidate, if there is none.
    """
    found = []
    for path in candidates:
        error = why_no_runtime(path, within)
        if error is None:
            return Endpoint(path)
        found.append(f"{path} ({error})")
    for pattern in ROOTLESS_SOCKETS:
        found += [f"{path} (rootless; name it if it is meant)" for path in rootless.glob(pattern)]
    raise EndpointError(
        "no runtime endpoint was given, and none answers the CRI: "
        + ", ".join(found)
        + "; name one with --runtime-endpoint or listeners[].runtime"
    )


def why_no_runtime(path: str, within: float = _PROBE_SECONDS) -> str | None:
    """Return why the socket at a path is no runtime's; None if it answers the CRI."""
    try:
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return "no socket"
        return find_cri_error(path, within)
    except OSError as error:
        return describe_error(path, error)
