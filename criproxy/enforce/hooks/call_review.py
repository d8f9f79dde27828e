"""Encodes and decodes CallReview, the JSON documents that webhooks get and answer.

Their form is that of Kubernetes's AdmissionReview. The request::

    {"apiVersion": "criproxy.io/v1", "kind": "CallReview", "request": {
        "uid": "6a1f...", "phase": "request",
        "service": "runtime.v1.RuntimeService", "method": "CreateContainer", "criVersion": "v1",
        "listener": "kubelet",
        "caller": {"pid": 812, "uid": 0, "gid": 0, "executable": "/usr/bin/kubelet"},
        "metadata": {"user-agent": "grpc-go/1.65.0"},
        "pod": {"id": "", "namespace": "shop", "name": "web-0", "uid": "...",
                "labels": {"app": "web"}, "annotations": {}},
        "container": null,
        "image": {"name": "docker.io/library/nginx:1", "registry": "docker.io",
                  "repository": "library/nginx", "tag": "1", "digest": "", "id": ""},
        "object": {...}}}

``object`` is the message in protobuf's JSON mapping. In the phase ``response`` it is the response,
and ``requestObject`` is the request. ``pod``, ``container`` and ``image`` are null where they are
not known. Registries' credentials (``auth`` of a PullImageRequest, the header ``authorization``)
are left out.

The response::

    {"response": {"uid": "6a1f...", "allowed": true,
                  "patchType": "JSONPatch", "patch": "W3sib3Ai..."}}
    {"response": {"uid": "6a1f...", "allowed": false,
                  "status": {"code": "PERMISSION_DENIED", "message": "..."}}}

``patch`` is a JSON Patch (RFC 6902) of ``object``, base64 as in Kubernetes or as it is. ``code`` is
gRPC's, by name or number.
"""

import base64
from typing import Any, Final

import msgspec

from criproxy.enforce.hooks.hook import HookDenial
from criproxy.enforce.hooks.json_patch import JsonObject, to_json
from criproxy.hook import Deny
from criproxy.rules.facts import Container, Facts, Pod
from criproxy.rules.image_names import checked

API_VERSION: Final = "criproxy.io/v1"
KIND: Final = "CallReview"

_SECRET_HEADERS: Final = frozenset({"authorization", "cookie", "proxy-authorization"})


class ReviewError(Exception):
    """A response that cannot be used; the text says why in one line."""


class _Status(msgspec.Struct):
    code: str | int = "PERMISSION_DENIED"
    message: str = ""


class _Response(msgspec.Struct):
    uid: str
    allowed: bool
    status: _Status | None = None
    patch_type: str | None = msgspec.field(name="patchType", default=None)
    patch: str | list[Any] | None = None


class _Answer(msgspec.Struct):
    response: _Response


_decoder: Final = msgspec.json.Decoder(_Answer)


def encode_review(uid: str, phase: str, message: JsonObject, facts: Facts) -> bytes:
    """Encode the request to a webhook; ``phase`` is ``request`` or ``response``.

    Raises EvaluationError if the registry of the call's image is not known yet.
    """
    name, caller = facts.method_name, facts.caller
    review: dict[str, Any] = {
        "uid": uid,
        "phase": phase,
        "service": name.service,
        "method": name.method,
        "criVersion": name.api_version,
        "listener": facts.listener,
        "caller": {
            "pid": caller.pid,
            "uid": caller.uid,
            "gid": caller.gid,
            "executable": caller.executable,
        },
        "metadata": {k: v for k, v in facts.metadata.items() if k not in _SECRET_HEADERS},
        "pod": None if facts.pod is None else _pod(facts.pod),
        "container": None if facts.container is None else _container(facts.container),
        "image": checked(facts.image),
        "object": message,
    }
    if phase == "response" and facts.request is not None:
        review["requestObject"] = to_json(facts.request)
    return msgspec.json.encode({"apiVersion": API_VERSION, "kind": KIND, "request": review})


def decode_answer(body: bytes, uid: str) -> list[Any]:
    """Decode the response to the request ``uid``; return its JSON Patch, empty for none.

    Raises HookDenial if the webhook denies the call, and ReviewError.
    """
    try:
        response = _decoder.decode(body).response
    except (msgspec.DecodeError, RecursionError) as error:
        raise ReviewError(f"the answer is no {KIND}: {error}") from error
    if response.uid != uid:
        raise ReviewError(f"the answer is to uid {response.uid[:40]!r}, not to {uid!r}")
    if not response.allowed:
        raise _denial(response.status or _Status())
    return _patch(response)


def _denial(status: _Status) -> HookDenial:
    try:
        deny = Deny(status.code, status.message)
    except ValueError as error:
        raise ReviewError(f"status.code: {error}") from error
    return HookDenial(deny.code, deny.message)


def _patch(response: _Response) -> list[Any]:
    patch = response.patch
    if not patch:
        return []
    if response.patch_type not in (None, "JSONPatch"):
        raise ReviewError(f"patchType is {response.patch_type!r}; it has to be JSONPatch")
    if isinstance(patch, list):
        return patch
    try:
        return msgspec.json.decode(base64.b64decode(patch, validate=True), type=list[Any])
    except (ValueError, RecursionError) as error:
        raise ReviewError(f"the patch is no base64 of a list in JSON: {error}") from error


def _pod(pod: Pod) -> dict[str, Any]:
    return {
        "id": pod.id,
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
        "labels": dict(pod.labels),
        "annotations": dict(pod.annotations),
    }


def _container(container: Container) -> dict[str, Any]:
    return {
        "id": container.id,
        "podId": container.pod_id,
        "name": container.name,
        "image": container.image,
        "labels": dict(container.labels),
        "annotations": dict(container.annotations),
    }
