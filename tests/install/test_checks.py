"""What the checks of an installation say of a kubelet that is none."""

import socket
from threading import Thread

import pytest

from criproxy.errors import UnavailableError
from criproxy.install.checks import healthy


def test_no_http() -> None:
    """What listens at the port of healthz and speaks no HTTP is no healthy kubelet."""

    def greet() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"220 mail\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=greet, daemon=True).start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/healthz"
        with pytest.raises(UnavailableError) as raised:
            healthy(url, 0, "kubelet.service")
    assert str(raised.value) == (
        f"the kubelet is not healthy at {url} (220 mail); see: journalctl -u kubelet.service"
    )


@pytest.mark.parametrize("url", ["http://127.0.0.1:no/healthz", "http://[::1/healthz"])
def test_no_url(url: str) -> None:
    """An address or a port of healthz that the kubelet cannot have either is an error."""
    with pytest.raises(UnavailableError, match="the kubelet is not healthy at http"):
        healthy(url, 0, "kubelet.service")
