from hypothesis import given
from hypothesis import strategies as st

from criproxy.cri.messages import request_class, response_class
from criproxy.cri.methods import METHODS, Method
from criproxy.cri.pb import runtime_v1_pb2 as v1
from criproxy.cri.pb import runtime_v1alpha2_pb2 as v1alpha2
from criproxy.rules.messages.diff import Change, diff_messages
from tests.support.messages import messages


def config(**fields) -> v1.CreateContainerRequest:
    return v1.CreateContainerRequest(config=v1.ContainerConfig(**fields))


def test_changes() -> None:
    """A change has the path of a rule; an absent value is None."""
    before = config(
        log_path="a",
        labels={"x": "1", "y": "2"},
        command=["run"],
        envs=[v1.KeyValue(key="A", value=b"1")],
    )
    after = config(
        log_path="b",
        labels={"y": "3", 'z"': "4"},
        command=["run", "-v"],
        envs=[v1.KeyValue(key="A", value=b"\xff")],
        tty=True,
        mounts=[v1.Mount(host_path="/x", propagation="PROPAGATION_BIDIRECTIONAL")],
        image=v1.ImageSpec(),
    )
    assert diff_messages(before, after) == [
        Change("config.image", None, "{}"),
        Change("config.command[1]", None, '"-v"'),
        Change("config.envs[0].value", '"1"', '"\\\\xff"'),
        Change("config.mounts[0].host_path", '""', '"/x"'),
        Change("config.mounts[0].propagation", "PROPAGATION_PRIVATE", "PROPAGATION_BIDIRECTIONAL"),
        Change('config.labels["x"]', '"1"', None),
        Change('config.labels["y"]', '"2"', '"3"'),
        Change('config.labels["z\\""]', None, '"4"'),
        Change("config.log_path", '"a"', '"b"'),
        Change("config.tty", "false", "true"),
    ]


def test_long_values_are_cut() -> None:
    """A value of any size is shortened to one line."""
    (change,) = diff_messages(config(log_path="a\n"), config(log_path="b" * 5000))
    assert str(change) == f'config.log_path: "a\\n" -> "{"b" * 100}"... (5000 characters)'


def test_secrets_are_not_shown() -> None:
    """Credentials are redacted, in both API versions."""
    for module in (v1, v1alpha2):
        before = module.PullImageRequest(auth=module.AuthConfig(username="me", password="secret"))
        after = module.PullImageRequest(auth=module.AuthConfig(username="you", password="hidden"))
        assert list(map(str, diff_messages(before, after))) == [
            'auth.username: "me" -> "you"',
            "auth.password: (redacted) -> (redacted)",
        ]


def test_unknown_fields() -> None:
    """A difference in unknown fields is reported."""
    before, after = config(), config()
    after.config.MergeFromString(b"\xf8\x07\x01")
    assert diff_messages(before, after) == [Change("config.(unknown fields)", None, "3 bytes")]


@given(method=st.sampled_from(list(METHODS.values())), data=st.data())
def test_changes_exist_exactly_for_different_messages(method: Method, data: st.DataObject) -> None:
    """Equal messages have no changes, different ones at least one."""
    kind = data.draw(st.sampled_from([request_class(method), response_class(method)]))
    before, after = data.draw(messages(kind)), data.draw(messages(kind))
    assert diff_messages(before, before) == []
    found = diff_messages(before, after)
    assert bool(found) == (before != after)
