"""A webhook on loopback that annotates images in requests and changes references in responses."""

import json
import threading
from typing import Any

from tests.support.http_server import Handler, HttpServer, Response


class Webhook(HttpServer):
    """Serves within the block; ``received`` counts its requests."""

    def __init__(self) -> None:
        super().__init__(self._respond)
        self.received = 0
        self._lock = threading.Lock()

    def _respond(self, _: Handler, body: bytes) -> Response:
        with self._lock:
            self.received += 1
        return Response(json.dumps(_answer(json.loads(body)["request"])).encode())


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
