import json
import math
import re
from base64 import b64decode, b64encode
from typing import Any

import msgspec
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2
from criproxy.cri.redaction import MANIFEST_ANNOTATIONS, Redactor, is_secret, secrets_in
from tests.support.messages import messages
from tests.support.planted import CREDENTIALS, HIDDEN_ANNOTATION, Secrets, fill, plant

KINDS = [kind(method) for method in METHODS.values() for kind in (request_class, response_class)]
OPEN = Redactor(environment=False, info=False)
TOKEN = r"tok-[0-9a-f]+"

versions = pytest.mark.parametrize("api", [v1, v1alpha2], ids=["v1", "v1alpha2"])


def without_credentials(message: Message) -> Message:
    for auth in [message.auth] if message.DESCRIPTOR.name == "PullImageRequest" else []:
        for name in CREDENTIALS:
            auth.ClearField(name)
    return message


def in_message(kind: type[Message], shown: Any) -> Any:
    """Redacted JSON as a redacted message has it: without credentials, bytes in base64."""
    if isinstance(shown, list):
        return [in_message(kind, each) for each in shown]
    if not isinstance(shown, dict):
        return shown
    names = {json_name(each) for each in CREDENTIALS}
    is_bytes = kind.DESCRIPTOR.file is v1.DESCRIPTOR
    found = {}
    for name, value in shown.items():
        if name == "auth":
            found[name] = {key: each for key, each in value.items() if key not in names}
        elif name == "envs" and is_bytes:
            marks = [str(each.get("value", "")).encode() for each in value]
            encoded = [{"value": b64encode(mark).decode()} if mark else {} for mark in marks]
            found[name] = [{**one, **two} for one, two in zip(value, encoded, strict=True)]
        else:
            found[name] = in_message(kind, value)
    return found


def json_name(name: str) -> str:
    return v1.AuthConfig.DESCRIPTOR.fields_by_name[name].json_name


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_it_is_protobufs_json(kind: type[Message], data: st.DataObject) -> None:
    """Without redaction, the JSON is that of protobuf's own library."""
    message = without_credentials(data.draw(messages(kind)))
    shown = OPEN.to_json(message)
    assert shown == MessageToDict(message)
    assert json.loads(msgspec.json.encode(shown)) == json.loads(json.dumps(shown))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.full_name)
def test_it_is_protobufs_json_of_every_field(kind: type[Message]) -> None:
    """The JSON of each field of each message is that of protobuf's own library."""
    message = kind()
    fill(message, lambda field: f"{field.name}-é")
    without_credentials(message)
    assert OPEN.to_json(message) == MessageToDict(message)


def test_numbers_outside_json() -> None:
    """Infinities and NaN are written as by protobuf."""
    message = v1.PsiData(Avg10=math.inf, Avg60=-math.inf, Avg300=math.nan)
    assert OPEN.to_json(message) == MessageToDict(message)


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_no_planted_secret_is_in_the_json(kind: type[Message], data: st.DataObject) -> None:
    """Credentials, environment, verbose info, redacted annotations and unknown fields are left
    out."""
    message = data.draw(messages(kind))
    secrets = Secrets()
    plant(message, secrets)
    shown = msgspec.json.encode(Redactor(annotations=["hidden.*"]).to_json(message)).decode()
    for secret in secrets.made:
        assert secret not in shown
        assert b64encode(secret.encode()).decode() not in shown


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.full_name)
def test_matches_of_expressions_are_redacted_everywhere(kind: type[Message]) -> None:
    """Expressions are applied to every string, map key, map value and bytes field."""
    message = kind()
    fill(message, lambda field: f"a tok-{len(field.name):08x} z")
    redactor = Redactor(environment=False, info=False, values=[TOKEN])
    shown = redactor.to_json(message)
    assert "tok-" not in msgspec.json.encode(shown).decode()
    if kind.DESCRIPTOR.name == "ExecSyncResponse":
        assert b64decode(shown["stdout"]) == b"a [redacted: 12 bytes] z"


@given(kind=st.sampled_from(KINDS), data=st.data())
def test_redacted_messages_look_the_same(kind: type[Message], data: st.DataObject) -> None:
    """A message that was redacted in place has the JSON that the redaction shows, on the wire."""
    message = data.draw(messages(kind))
    secrets = Secrets()
    plant(message, secrets)
    redactor = Redactor(annotations=["hidden.*"], values=[TOKEN])
    shown = redactor.to_json(message)
    redactor.redact(message)
    assert OPEN.to_json(without_credentials(kind.FromString(message.SerializeToString()))) == (
        in_message(kind, shown)
    )
    for secret in secrets.made:
        assert secret.encode() not in message.SerializeToString()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.DESCRIPTOR.full_name)
def test_every_field_of_a_message_is_redacted(kind: type[Message]) -> None:
    """Expressions are applied in place to every string, map and bytes field; what else there is
    stays."""
    message = kind()
    fill(message, lambda field: f"a tok-{len(field.name):08x} z")
    redactor = Redactor(values=[TOKEN])
    shown = redactor.to_json(message)
    redactor.redact(message)
    assert b"tok-" not in message.SerializeToString()
    assert OPEN.to_json(without_credentials(message)) == in_message(kind, shown)


@versions
def test_marks_have_the_length(api) -> None:
    """A mark contains the number of redacted bytes."""
    pull = api.PullImageRequest(
        image=api.ImageSpec(image="a", annotations={"a.b/c": "é", "d": "e"}),
        auth=api.AuthConfig(
            username="me",
            password="secret",
            auth="x",
            identity_token="",
            registry_token="grüße",
            server_address="registry",
        ),
    )
    assert Redactor(annotations=["a.*", "x"]).to_json(pull) == {
        "image": {
            "image": "a",
            "annotations": {"a.b/c": "[redacted: 2 bytes]", "d": "e"},
        },
        "auth": {
            "username": "me",
            "password": "[redacted: 6 bytes]",
            "auth": "[redacted: 1 bytes]",
            "registryToken": "[redacted: 7 bytes]",
            "serverAddress": "registry",
        },
    }
    assert sorted(secrets_in(pull)) == ["grüße", "secret", "x"]


@versions
def test_options(api) -> None:
    """Environment and verbose info are redacted unless that is turned off, each by itself."""
    kind = api.KeyValue.DESCRIPTOR.fields_by_name["value"]
    value = b"blue" if kind.type == kind.TYPE_BYTES else "blue"
    config = api.ContainerConfig(envs=[api.KeyValue(key="COLOUR", value=value)])
    status = api.StatusResponse(info={"config": "{}"})
    hidden, shown = Redactor(), OPEN
    assert hidden.to_json(config) == {"envs": [{"key": "COLOUR", "value": "[redacted: 4 bytes]"}]}
    assert hidden.to_json(status) == {"info": {"config": "[redacted: 2 bytes]"}}
    assert shown.to_json(config) == MessageToDict(config)
    assert shown.to_json(status) == MessageToDict(status)


@versions
def test_secret_fields(api) -> None:
    """Credentials are secret in both versions, whether the API marks them or not."""
    fields = api.AuthConfig.DESCRIPTOR.fields
    assert {field.name for field in fields if is_secret(field)} == CREDENTIALS
    every = [
        field for kind in api.DESCRIPTOR.message_types_by_name.values() for field in kind.fields
    ]
    assert all(is_secret(field) for field in every if field.GetOptions().debug_redact)
    assert sum(map(is_secret, every)) == len(CREDENTIALS)


@pytest.mark.parametrize(
    ("patterns", "text", "redacted"),
    [
        (["b+"], "abbbc", "a[redacted: 3 bytes]c"),
        (["ab", "bc"], "xabcx", "x[redacted: 3 bytes]x"),
        (["a", "b"], "ab", "[redacted: 1 bytes][redacted: 1 bytes]"),
        (["x|yz*"], "axyzzb", "a[redacted: 1 bytes][redacted: 3 bytes]b"),
        (["(?i)SECRET", r"\d+"], "secret 12", "[redacted: 6 bytes] [redacted: 2 bytes]"),
        ([".+"], "é", "[redacted: 2 bytes]"),
        (["password=(?P<secret>\\w+)"], "password=abc&x", "password=[redacted: 3 bytes]&x"),
        (["a(?P<secret>b)|c(?P<secret>d)"], "abcd", "a[redacted: 1 bytes][redacted: 2 bytes]"),
        ([], "abc", "abc"),
    ],
)
def test_expressions(patterns: list[str], text: str, redacted: str) -> None:
    """All expressions are applied to the original string; overlapping matches are joined."""
    assert Redactor(values=patterns).text(text) == redacted


@given(st.text(), st.lists(st.text(alphabet="ab.*", min_size=1), max_size=3))
def test_other_text_is_unchanged(text: str, words: list[str]) -> None:
    """Apart from the marks, the text is the original without the matches."""
    redacted = Redactor(values=[re.escape(word) for word in words]).text(text)
    left = re.sub(r"\[redacted: \d+ bytes\]", "", redacted)
    assert set(left) <= set(text)
    assert (redacted == text) == (not any(word in text for word in words))


def test_bytes_that_are_not_utf8_match_any_character() -> None:
    """A match may contain bytes that are not UTF-8; the mark has the number of original bytes."""
    message = v1.ExecSyncResponse(stdout=b"password=\xff\xfe\x80! \xff")
    shown = Redactor(values=[r"password=(?P<secret>\S+)"]).to_json(message)
    assert b64decode(shown["stdout"]) == b"password=[redacted: 4 bytes] \xff"


def test_bytes_that_are_not_utf8() -> None:
    """Bytes that are not UTF-8 are searched as well, and preserved."""
    message = v1.ExecSyncResponse(stdout=b"\xff\xfetok-12\x80")
    shown = Redactor(values=[TOKEN]).to_json(message)
    assert b64decode(shown["stdout"]) == b"\xff\xfe[redacted: 6 bytes]\x80"


def test_keys_of_redacted_annotations() -> None:
    """The key of a redacted annotation is kept."""
    config = v1.PodSandboxConfig(annotations={HIDDEN_ANNOTATION: "x", "other": "tok-1"})
    shown = Redactor(annotations=["hidden.*/*"], values=[TOKEN]).to_json(config)
    assert shown == {
        "annotations": {HIDDEN_ANNOTATION: "[redacted: 1 bytes]", "other": "[redacted: 5 bytes]"}
    }


@pytest.mark.parametrize("key", MANIFEST_ANNOTATIONS)
@pytest.mark.parametrize("environment", [True, False])
def test_manifests_in_annotations(key: str, environment: bool) -> None:
    """An annotation with a whole manifest is redacted as the environment is, which it contains."""
    config = v1.PodSandboxConfig(annotations={key: '{"env":"tok-1"}', "other": "x"})
    shown = Redactor(environment=environment, annotations=["hidden.*"]).to_json(config)
    expected = "[redacted: 15 bytes]" if environment else '{"env":"tok-1"}'
    assert shown == {"annotations": {key: expected, "other": "x"}}
