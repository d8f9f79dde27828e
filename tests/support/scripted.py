"""An HTTP/2 server on h2 that answers requests as a test defines, in ways that gRPC servers rarely
do: with resets, with plain HTTP, with an early GOAWAY."""

import contextlib
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, RequestReceived, StreamEnded
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from tests.support.raw_sockets import accept, dial, listening

Answer = Callable[[H2Connection, int], None]
"""Is given the connection and the number of a stream whose request has been read whole."""


class ScriptedServer:
    """Serves at ``path`` from entering to leaving the block; each connection on a thread."""

    def __init__(
        self, path: Path, answer: Answer, began: Answer | None = None, streams: int = 100
    ) -> None:
        """``began`` is given a stream whose request's headers have been read.

        A connection on which more than ``streams`` are open at once is closed.
        """
        self.path = path
        self._answer = answer
        self._began = began
        self._settings = {SettingCodes.MAX_CONCURRENT_STREAMS: streams}
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listening = listening(path)
        self._stopping = False

    def _accept(self) -> None:
        while True:
            client = accept(self._socket)
            if self._stopping:
                client.close()
                return
            self._open.append(client)
            self._threads.append(threading.Thread(target=self._serve, args=(client,)))
            self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        h2 = H2Connection(H2Configuration(client_side=False, header_encoding=None))
        h2.local_settings = Settings(client=False, initial_values=self._settings)
        h2.initiate_connection()
        try:
            client.sendall(h2.data_to_send())
            while data := client.recv(1 << 16):
                for event in h2.receive_data(data):
                    if isinstance(event, DataReceived):
                        h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    elif isinstance(event, RequestReceived) and self._began is not None:
                        self._began(h2, event.stream_id)
                    elif isinstance(event, StreamEnded):
                        self._answer(h2, event.stream_id)
                client.sendall(h2.data_to_send())
        except (OSError, ProtocolError):
            pass  # the client has gone
        finally:
            client.close()

    def __enter__(self) -> Self:
        self._socket = self._listening.__enter__()
        self._socket.settimeout(None)  # however long no client comes
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        dial(self.path).close()
        self._accepting.join()
        self._listening.__exit__(None, None, None)
        for client in self._open:
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
