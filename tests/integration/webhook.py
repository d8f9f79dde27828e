"""A webhook on loopback that annotates images in requests and changes references in responses."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


class Webhook:
    """Serves at ``url`` within the block; ``received`` counts its requests."""

    def __init__(self) -> None:
        self.received = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                with lock:
                    outer.received += 1
                answer = json.dumps(_answer(json.loads(body)["request"])).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_address[1]!r}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, *_: Any) -> None:
        pass  # a client that is gone


def _answer(review: dict[str, Any]) -> dict[str, Any]:
    if review["phase"] == "request":
        operation = {"op": "add", "path": "/image/annotations", "value": {"team": "blue"}}
    else:
        reference = review["object"]["imageRef"] + "#seen"
        operation = {"op": "replace", "path": "/imageRef", "value": reference}
    return {
        "response": {
            "uid": review["uid"],
            "allowed": True,
            "patchType": "JSONPatch",
            "patch": [operation],
        }
    }
