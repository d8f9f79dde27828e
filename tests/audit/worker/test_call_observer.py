"""CallObserver: which calls it submits to the audit log."""

from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from criproxy.audit.items import CallAtStage, UnreadConnection
from criproxy.audit.policy import AuditPolicy
from criproxy.audit.spec import AuditRuleSpec
from criproxy.audit.worker.call_observer import REFUSED, CallObserver
from criproxy.peers.peer import Connection
from criproxy.rules.spec import CallersSpec
from criproxy.wire.grpc import StatusCode
from criproxy.wire.reading.calls import Call
from criproxy.wire.reading.connection import CallBegan, CallEnded, ReadingStopped
from criproxy.wire.reading.message_capture import CaptureBudget, MessageCapture
from tests.support.audited import AGENT, KUBELET, LISTENER, path_of
from tests.support.calls import ended, running


class Client:
    """Collects submitted items."""

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.synced: list[Any] = []
        self.lost: Counter[str] = Counter()

    def submit(self, item: Any, done: Any = None) -> None:
        if done is None:
            self.items.append(item)
        else:
            self.synced.append((item, done))

    def forget(self, connection: Connection) -> None:
        pass

    def count_dropped(self, reason: str) -> None:
        self.lost[reason] += 1


class Recording:
    """A CallObserver under a policy, and two clients: the kubelet and another."""

    def __init__(self, *rules: AuditRuleSpec) -> None:
        policy = AuditPolicy(list(rules) or None)
        self.client = Client()
        client: Any = self.client
        self.budget = CaptureBudget(1 << 20)
        self.observer = CallObserver(policy, 1 << 18, client, self.budget)
        self.kubelet = Connection(LISTENER, KUBELET, 0.0)
        self.agent = Connection(LISTENER, AGENT, 0.0)
        self.keeps = {each: self.observer.capture_for(each) for each in (self.kubelet, self.agent)}

    def limits(self, connection: Connection, method: str) -> Any:
        return self.keeps[connection](path_of(method).encode())

    def ends(self, connection: Connection, method: str, **more: Any) -> Call:
        """End a call of a method whose messages were captured as requested."""
        path = path_of(method).encode()
        call = ended(path, **more)
        limits = self.keeps[connection](path)
        call.capture = None if limits is None else MessageCapture(limits)
        self.observer.observe(connection, CallEnded(call), 10.0)
        return call

    @property
    def submitted(self) -> list[tuple[str, bytes]]:
        return [(each.stage, each.call.path) for each in self.client.items]


def test_what_the_kubelet_reads_costs_nothing() -> None:
    """Under the default policy a kubelet's reads are neither captured nor submitted."""
    recording = Recording()
    for method in ("ListContainers", "ContainerStatus", "Version", "GetContainerEvents"):
        assert recording.limits(recording.kubelet, method) is None
        recording.ends(recording.kubelet, method)
        recording.ends(recording.kubelet, method, code=StatusCode.NOT_FOUND)
    assert not recording.client.items


@pytest.mark.parametrize("version", ["v1", "v1alpha2"])
def test_exit_codes_are_captured(version: str) -> None:
    """Of an ExecSync that may be recorded the response is captured, whatever the level is."""
    for rules in ((), (AuditRuleSpec("Metadata"),)):
        recording = Recording(*rules)
        for connection in (recording.kubelet, recording.agent):
            limits = recording.keeps[connection](path_of("ExecSync", version).encode())
            assert limits is not None
            assert limits.response >= 64 << 10
            assert limits.budget is recording.budget
    recording = Recording(AuditRuleSpec("None"))
    assert recording.limits(recording.kubelet, "ExecSync") is None


def test_what_is_recorded_is_handed_over_once() -> None:
    """A call that may be recorded is submitted when it has ended, with an id."""
    recording = Recording()
    call = recording.ends(recording.agent, "ListContainers", took=2.0)
    (item,) = recording.client.items
    assert isinstance(item, CallAtStage)
    assert (item.stage, item.call, item.connection) == ("ResponseComplete", call, recording.agent)
    assert item.at == 2.0
    id_ = UUID(item.audit_id)
    assert (str(id_), id_.version, id_.variant) == (item.audit_id, 4, "specified in RFC 4122")
    recording.observer.observe(recording.agent, CallBegan(running(b"Version")), 3.0)
    assert len(recording.client.items) == 1


def test_ids_are_different() -> None:
    """Audit ids are unique."""
    recording = Recording()
    for _ in range(1000):
        recording.ends(recording.agent, "Version")
    assert len({item.audit_id for item in recording.client.items}) == 1000


def test_who_asks_decides() -> None:
    """Which messages are captured depends on the caller and method."""
    none = AuditRuleSpec("None", callers=CallersSpec(kubelet=True))
    recording = Recording(none, AuditRuleSpec("RequestResponse", methods=["Exec*"]))
    assert recording.limits(recording.kubelet, "ExecSync") is None
    assert recording.limits(recording.agent, "Status") is None
    limits = recording.limits(recording.agent, "ExecSync")
    assert limits.request
    assert limits.response
    assert limits.budget is recording.budget


def test_what_names_are_learned_from() -> None:
    """A call that creates a pod is submitted for its names even if it is not recorded."""
    recording = Recording(AuditRuleSpec("None"))
    recording.ends(recording.kubelet, "RunPodSandbox")
    recording.ends(recording.kubelet, "Status")
    assert recording.submitted == [("ResponseComplete", path_of("RunPodSandbox").encode())]


def test_what_is_denied_is_handed_over_always() -> None:
    """A call that criproxy denied is submitted whatever the policy is."""
    recording = Recording(AuditRuleSpec("None"))
    call = ended(path_of("Status").encode(), StatusCode.PERMISSION_DENIED)
    call.denied = "method"
    recording.observer.observe(recording.agent, CallEnded(call), 1.0)
    assert recording.submitted == [("ResponseComplete", call.path)]


def test_a_call_that_was_refused_for_want_of_room() -> None:
    """It has no record, which there is no room for, but is counted as missing, unless one of its
    stages is in the log."""
    recording = Recording()
    call = ended(path_of("Status").encode(), StatusCode.UNAVAILABLE)
    call.denied = REFUSED
    recording.observer.observe(recording.agent, CallEnded(call), 1.0)
    assert not recording.client.items
    assert recording.client.lost == {"refused": 1}
    recording.observer.received(recording.agent, call, 1.0, lambda durable: None)
    recording.observer.observe(recording.agent, CallEnded(call), 2.0)
    assert recording.submitted == [("ResponseComplete", call.path)]
    assert recording.client.lost == {"refused": 1}


def test_calls_that_run_for_long() -> None:
    """A call that reaches the age is submitted once as RequestReceived, with the id of its end."""
    recording = Recording()
    old, unrecorded, young = (
        running(path_of(method).encode(), began)
        for method, began in (("PullImage", 0.0), ("Version", 0.0), ("ExecSync", 8.0))
    )
    calls = [(old, recording.agent), (unrecorded, recording.kubelet), (young, recording.agent)]
    for now in (4.0, 5.0, 9.0):
        recording.observer.sweep(calls, now, 5.0)
    assert recording.submitted == [("RequestReceived", old.path)]
    assert recording.client.items[0].at == 5.0
    recording.observer.observe(recording.agent, CallEnded(old), 9.0)
    began, done = recording.client.items
    assert began.audit_id == done.audit_id
    recording.observer.observe(recording.agent, CallEnded(young), 9.0)
    assert recording.client.items[2].audit_id != done.audit_id


def test_a_record_that_is_waited_for() -> None:
    """A call that waits for its record has one made, even if it had one before."""
    recording = Recording()
    call = running(path_of("StopContainer").encode())
    recording.observer.sweep([(call, recording.agent)], 10.0, 5.0)

    def done(durable: bool) -> None: ...

    recording.observer.received(recording.agent, call, 11.0, done)
    ((item, callback),) = recording.client.synced
    assert (item.stage, item.at, callback) == ("RequestReceived", 11.0, done)
    assert item.audit_id == recording.client.items[0].audit_id


def test_a_connection_that_is_not_read_any_more() -> None:
    """A connection that is no longer parsed is submitted."""
    recording = Recording(AuditRuleSpec("None"))
    recording.observer.observe(recording.agent, ReadingStopped("protocol", "bad frame"), 3.0)
    (item,) = recording.client.items
    assert isinstance(item, UnreadConnection)
    assert (item.connection, item.reason) == (recording.agent, "protocol")
    assert (item.detail, item.at) == ("bad frame", 3.0)


@pytest.mark.parametrize("length", [10, 10_000])
def test_paths_that_clients_invent(length: int) -> None:
    """The cache of paths is bounded, and calls of any number of paths are recorded."""
    recording = Recording()
    for number in range(2000):
        path = b"/x.Y/" + str(number).encode().zfill(length)
        assert recording.observer.records(recording.agent, path)
    known = recording.observer._connections[recording.agent]
    assert sum(map(len, known)) <= 256 * 256


def test_connections_that_are_gone() -> None:
    """A closed connection leaves nothing behind, and its late ends are submitted."""
    recording = Recording()
    recording.observer.forget(recording.agent)
    recording.observer.forget(recording.agent)
    assert list(recording.observer._connections) == [recording.kubelet]
    recording.ends(recording.agent, "Version")
    assert len(recording.client.items) == 1
    assert list(recording.observer._connections) == [recording.kubelet]


def test_what_is_sent_is_what_the_policy_captures() -> None:
    """What others have captured of a call is not sent beyond its policy and its subject."""
    recording = Recording(AuditRuleSpec("Request", methods=["ExecSync"]), AuditRuleSpec("Metadata"))
    for method in ("ExecSync", "ListContainers"):
        recording.ends(recording.agent, method)
    exec_sync, listing = (item.limits for item in recording.client.items)
    assert (exec_sync.request, exec_sync.response) == (1 << 18, 1 << 18)  # for the exit code
    assert (listing.request, listing.response) == (64 << 10, 0)
