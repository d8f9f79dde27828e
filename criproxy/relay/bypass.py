"""Bypasses a listener: its path becomes a symbolic link to the runtime's socket, and back.

It is for the case that criproxy itself fails: clients that connect then reach the runtime. Nothing
has to run for it. The path always leads to a socket: the link is renamed over it. The daemon's own
socket keeps a neighbouring name meanwhile, by which it is put back.
"""

import os
import stat
from pathlib import Path

from criproxy.errors import EndpointError, UnavailableError
from criproxy.relay.dial import connect
from criproxy.relay.endpoints import Endpoint
from criproxy.relay.sockets import locked_directory


def kept_socket(endpoint: Endpoint) -> Path:
    """Return the path of a listener's own socket while it is bypassed."""
    path = Path(endpoint.path)
    return path.with_name(f".{path.name}.bypassed")


def is_bypassed(endpoint: Endpoint, runtime: Endpoint) -> bool:
    """Return whether a listener's path is a link to the runtime's socket."""
    try:
        return os.readlink(endpoint.path) == runtime.path
    except OSError:
        return False


def bypass(endpoint: Endpoint, runtime: Endpoint) -> bool:
    """Replace a listener's path by a link to the runtime's socket; return False if it is one.

    Raises EndpointError when something else than a socket is at the path, and UnavailableError when
    nobody listens at the runtime's socket or the file system refuses. Nothing is changed then.
    """
    _require_runtime(runtime)
    path = Path(endpoint.path)
    try:
        with locked_directory(path.parent):
            if is_bypassed(endpoint, runtime):
                return False
            _keep(endpoint, runtime)
            link = path.with_name(f".{path.name}.{os.getpid()}")
            link.unlink(missing_ok=True)  # left by a process of the same id that died here
            link.symlink_to(runtime.path)
            link.rename(path)
    except OSError as error:
        raise UnavailableError(f"cannot bypass {endpoint}: {error.strerror or error}") from error
    return True


def restore(endpoint: Endpoint, runtime: Endpoint) -> bool:
    """End a bypass; return False if there is none.

    The daemon's own socket is put back if it still listens there, otherwise the link is removed.
    Raises UnavailableError when the file system refuses.
    """
    path, kept = Path(endpoint.path), kept_socket(endpoint)
    try:
        if not is_bypassed(endpoint, runtime):
            return False
        with locked_directory(path.parent):
            if _listens(Endpoint(str(kept))):
                kept.rename(path)
            else:
                path.unlink()
                kept.unlink(missing_ok=True)
    except OSError as error:
        raise UnavailableError(
            f"cannot end the bypass of {endpoint}: {error.strerror or error}"
        ) from error
    return True


def _require_runtime(runtime: Endpoint) -> None:
    if not _listens(runtime):
        raise UnavailableError(
            f"nobody listens at {runtime}; start the runtime, or name its socket in the "
            "configuration"
        )


def _keep(endpoint: Endpoint, runtime: Endpoint) -> None:
    """Give a listener's socket, if there is one, a second name. Raises EndpointError or OSError."""
    try:
        mode = os.lstat(endpoint.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        what = f"a link to {os.readlink(endpoint.path)}" if stat.S_ISLNK(mode) else "not a socket"
        raise EndpointError(f"cannot bypass {endpoint}: it is {what}; remove it first")
    if os.path.samefile(endpoint.path, runtime.path):
        raise EndpointError(
            f"cannot bypass {endpoint}: the runtime's socket {runtime} leads to it; "
            "name the runtime's own socket"
        )
    kept = kept_socket(endpoint)
    kept.unlink(missing_ok=True)
    os.link(endpoint.path, kept)


def _listens(endpoint: Endpoint) -> bool:
    try:
        connect(endpoint).close()
    except BlockingIOError:  # the backlog is full
        return True
    except OSError:
        return False
    return True
