"""Secrets in status messages and other texts of runtimes, registries and hooks."""

import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2
from criproxy.cri.text_redaction import pull_credentials, redact_text

PASSWORD = 'p@ss w%rd/+"é'


def hidden(size: int) -> str:
    return f"[redacted: {size} bytes]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # User information of URLs.
        ("https://me:hunter22@r/x: 401", f"https://{hidden(11)}@r/x: 401"),
        ("https://token@r/x", f"https://{hidden(5)}@r/x"),
        ("https://a:p@ss@r/x", f"https://{hidden(6)}@r/x"),
        ("https://u:p/w@r/x", f"https://{hidden(5)}@r/x"),
        ("u=https%3A%2F%2Fu%3Apw%40r%2Fx", f"u=https%3A%2F%2F{hidden(6)}%40r%2Fx"),
        # Signed URLs: S3, Google Cloud Storage, Azure, CloudFront, OSS.
        (
            'Get "https://b.s3/x?X-Amz-Credential=AK%2F1&X-Amz-Date=2&X-Amz-Signature=ab": 403',
            f'Get "https://b.s3/x?X-Amz-Credential={hidden(6)}&X-Amz-Date=2'
            f'&X-Amz-Signature={hidden(2)}": 403',
        ),
        ("x?X-Goog-Signature=ab&a=b", f"x?X-Goog-Signature={hidden(2)}&a=b"),
        ("x?sv=1&sig=a%2Bb%3D&se=2", f"x?sv=1&sig={hidden(8)}&se=2"),
        ("x?Expires=1&Signature=ab~_", f"x?Expires=1&Signature={hidden(4)}"),
        ("x?sig=ab", f"x?sig={hidden(2)}"),
        # Tokens, wherever they stand: queries, forms, JSON, encoded and quoted URLs.
        ("x/token?service=r&token=ab", f"x/token?service=r&token={hidden(2)}"),
        ("x?to=https://h?access_token=ab&b=1", f"x?to=https://h?access_token={hidden(2)}&b=1"),
        ("https%3A%2F%2Fh%3Fsig%3Dab%26x%3D1", f"https%3A%2F%2Fh%3Fsig%3D{hidden(2)}%26x%3D1"),
        (
            r'"h?a=1\u0026X-Amz-Signature=ab\u0026b"',
            rf'"h?a=1\u0026X-Amz-Signature={hidden(2)}\u0026b"',
        ),
        ("h?a=1&amp;sig=ab&amp;b", f"h?a=1&amp;sig={hidden(2)}&amp;b"),
        ('{"access_token": "ab", "n": "c"}', f'{{"access_token": "{hidden(2)}", "n": "c"}}'),
        ('{\\"password\\":\\"ab\\"}', f'{{\\"password\\":\\"{hidden(2)}\\"}}'),
        # Headers.
        ("Authorization: Basic dXNlcjpwYXNz", f"Authorization: Basic {hidden(12)}"),
        ("bearer abcdEFGH==, x", f"bearer {hidden(10)}, x"),
        ("got eyJhbGciOi.eyJzdWIi.sig-x.", f"got {hidden(25)}."),
    ],
)
def test_secrets(text: str, expected: str) -> None:
    """User information, signatures and tokens have marks in their place, and all else stays."""
    assert redact_text(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "failed to pull docker.io/library/nginx:1@sha256:abc",
        "https://r:5000/v2/a/manifests/sha256@sha256:abc",
        "docker://docker.io/library/nginx:1@sha256:abc",
        'Bearer realm="https://a/token",service="r",scope="repository:x:pull"',
        "Basic Authentication failed, bearer authentication as well",
        "rpc error: code = Unknown desc = exit code=137 key=app verify=no",
        "unix:///run/containerd/containerd.sock: a@b",
        "?a=1&b=2",
    ],
)
def test_other_texts(text: str) -> None:
    """References, ports, challenges and other words are no secrets."""
    assert redact_text(text, ["other"]) == text


@pytest.mark.parametrize(
    "form",
    [
        PASSWORD,
        quote(PASSWORD, safe=""),
        quote(PASSWORD, safe="").lower(),
        quote(PASSWORD),
        quote_plus(PASSWORD),
        quote(quote(PASSWORD, safe=""), safe=""),
        json.dumps(PASSWORD)[1:-1],
        json.dumps(PASSWORD, ensure_ascii=False)[1:-1],
        b64encode(PASSWORD.encode()).decode(),
        b64encode(f"me:{PASSWORD}".encode()).decode(),
        b64encode(f"you:{PASSWORD}".encode()).decode().rstrip("="),
        urlsafe_b64encode(f"they:{PASSWORD}".encode()).decode(),
        quote(b64encode(f"me:{PASSWORD}".encode()), safe=""),
    ],
)
def test_forms_of_credentials(form: str) -> None:
    """A credential of the request is found as it is, percent-encoded, quoted and in base64."""
    text = f"é: <{form}> é"
    assert redact_text(text, [PASSWORD]) == f"é: <{hidden(len(form.encode()))}> é"


def test_password_in_auth() -> None:
    """``auth`` is the base64 of user and password: a text that quotes the password gets a mark."""
    auth = b64encode(b"me:hunter22").decode()
    assert redact_text("not hunter22", [auth]) == f"not {hidden(8)}"


@given(
    secret=st.text(st.characters(exclude_categories=["Cs"]), min_size=8),
    before=st.binary(),
    after=st.binary(),
)
def test_any_credential(secret: str, before: bytes, after: bytes) -> None:
    """Whatever a credential consists of, and whatever stands around it: it is in no text."""
    inside = before + secret.encode() + after
    for form in (secret, quote(secret, safe=""), b64encode(inside).decode()):
        assert form not in redact_text(f"- {form} -", [secret])


@given(st.text(), st.lists(st.text()))
def test_any_text(text: str, credentials: list[str]) -> None:
    """No text raises, and what is redacted once has nothing left to redact."""
    redact_text(text, credentials)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (9, "0123 http\N{HORIZONTAL ELLIPSIS}"),
        (20, f"0123 https://{hidden(5)}@r\N{HORIZONTAL ELLIPSIS}"),
        (24, f"0123 https://{hidden(5)}@r/and"),
        (100, f"0123 https://{hidden(5)}@r/and"),
    ],
)
def test_limit(size: int, expected: str) -> None:
    """A text that is longer than its limit is cut there."""
    assert redact_text("0123 https://me:pw@r/and", limit=size) == expected


def test_secret_at_the_limit() -> None:
    """No part of a secret remains where a text is cut within it, whether recognized or given."""
    assert (
        redact_text("a hunter22 b" + "c" * 20, ["hunter22"], limit=5)
        == f"a {hidden(8)}\N{HORIZONTAL ELLIPSIS}"
    )
    assert (
        redact_text("h?sig=" + "a" * 99, limit=50) == f"h?sig={hidden(99)}\N{HORIZONTAL ELLIPSIS}"
    )


@pytest.mark.parametrize(
    "unit",
    ["://", "://a:b", "://u:p/w", "a=", "token=", "&sig=", "eyJ", "eyJa.", "basic ", "%3d",
     "%3a%2f%2f", "%25", "hunter22", "%68unter22", "aHVudGVyMjI", "aHVudGVyMjI.",
     '"token":"', "@", "a.b-", "é"],
)  # fmt: skip
def test_repetitions_take_linear_time(unit: str) -> None:
    """No repetition makes an expression try the same characters again and again, which would take
    minutes."""
    redact_text(unit * (1 << 15), ["hunter22"])


@pytest.mark.parametrize("api", [v1, v1alpha2])
def test_credentials_of_a_pull(api: type[v1]) -> None:
    """The secret fields of a PullImageRequest are read without protobuf."""
    request = api.PullImageRequest(
        image=api.ImageSpec(image="x", annotations={"a": "b"}),
        auth=api.AuthConfig(
            username="me",
            password="é" * 100,
            auth="b",
            server_address="r",
            identity_token="c",
            registry_token="d",
        ),
        sandbox_config=api.PodSandboxConfig(log_directory="x"),
    )
    data = request.SerializeToString() + b"\x90\x3e\x05\x99\x3e12345678\x9d\x3e1234"
    assert pull_credentials(data) == ["é" * 100, "b", "c", "d"]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a\x00" * 100_000,
        b"\x12\x00" * 100_000,
        v1.PullImageRequest(auth=v1.AuthConfig(password="x" * 100_000)).SerializeToString(),
        b"".join(
            v1.PullImageRequest(auth=v1.AuthConfig(auth=f"{n:05}")).SerializeToString()
            for n in range(1000)
        ),
    ],
    ids=["fields", "empty auths", "long", "many"],
)
def test_credentials_of_no_orderly_pull(data: bytes) -> None:
    """A request with more fields or longer credentials than any client needs is given up: each
    credential would cost a search of the text, on the event loop."""
    assert pull_credentials(data) is None


@given(st.binary())
def test_malformed_pull(data: bytes) -> None:
    """No bytes raise."""
    pull_credentials(data)
