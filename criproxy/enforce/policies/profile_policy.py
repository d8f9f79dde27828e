"""Enforces a listener's profile: on requests before the rules, on responses after them."""

from google.protobuf.message import Message

from criproxy.cri.methods import METHODS, Method
from criproxy.cri.naming import resolve
from criproxy.enforce.evaluation.effects import ProfileDenial
from criproxy.enforce.policies.deny_policy import deny_stream
from criproxy.enforce.policies.rule_policy import RulePolicy
from criproxy.enforce.resources import Resources
from criproxy.peers.peer import Connection
from criproxy.rules.profiles.pod_visibility import (
    OWN_POD,
    NotVisibleError,
    PodVisibility,
    is_about_one,
    is_about_pods,
    is_in_tables,
)
from criproxy.rules.profiles.profile import Profile
from criproxy.rules.profiles.scrubbing import Scrubber
from criproxy.wire.grpc import StatusCode
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call

METHOD = "method"
"""The reason for a method that the profile does not contain."""

UNKNOWN_METHOD = "unknown_method"
"""The reason for a method that the CRI does not contain."""

_PATH_SHOWN = 120
"""Characters of a :path that the status message contains at most."""


class ProfileFilter:
    """Applies a profile to the messages of one call.

    A :class:`criproxy.enforce.evaluation.evaluation.MessageFilter`.
    """

    def __init__(
        self, profile: Profile, method: Method, visibility: PodVisibility | None, scrubber: Scrubber
    ) -> None:
        """``visibility`` is None where the call may be about any pod, or is about none."""
        self.filters_request = visibility is not None
        self.hides_failures = visibility is not None and not is_about_one(method)
        self._profile = profile
        self._method = method
        self._visibility = visibility
        self._scrubber = scrubber

    def request(self, message: Message) -> Message:
        """See :class:`criproxy.enforce.evaluation.evaluation.MessageFilter`."""
        if self._visibility is None:
            return message
        try:
            return self._visibility.narrow_request(self._method, message)
        except NotVisibleError as error:
            raise ProfileDenial(
                error.reason, not_visible_message(self._profile, self._method)
            ) from error

    def response(self, message: Message) -> Message | None:
        """See :class:`criproxy.enforce.evaluation.evaluation.MessageFilter`."""
        visible = type(message)()
        visible.CopyFrom(message)
        visible.DiscardUnknownFields()
        try:
            remains = self._visibility is None or self._visibility.narrow_response(visible)
        except NotVisibleError as error:
            raise ProfileDenial(
                error.reason, not_visible_message(self._profile, self._method)
            ) from error
        if not remains and self._method.server_streaming:
            return None
        self._scrubber.scrub(visible)
        return visible


class ProfilePolicy:
    """The policy of a listener that has a profile (other than ``full``)."""

    enforcing = True

    def __init__(self, profile: Profile, resources: Resources, rules: RulePolicy) -> None:
        """``rules`` are applied to the calls that the profile allows. Where the profile restricts
        pods, they have to update the pod cache: see RulePolicy."""
        self._profile = profile
        self._resources = resources
        self._rules = rules
        self._scrubber = Scrubber(profile.spec.scrub)

    def wanted(self, path: bytes) -> bool:
        """Return True: calls that are not allowed are denied, and to tell that takes their headers
        (``:path`` may be there twice)."""
        return True

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        """See :class:`criproxy.relay.policy.Policy`."""
        path = stream.path.decode("latin-1")
        profile = self._profile

        def deny(
            reason: str, message: str, code: StatusCode = StatusCode.PERMISSION_DENIED
        ) -> Hold:
            name = resolve(stream.path)
            counts = self._resources.counts
            return deny_stream(counts, connection, name, call, stream, reason, message, code)

        paths = sum(name == b":path" for name, _ in headers)
        if path not in METHODS or paths != 1:
            what = path[:_PATH_SHOWN].encode("ascii", "backslashreplace").decode()
            message = f"{_of(profile)} allows nothing that is not in the CRI, as {what}"
            code = StatusCode.UNIMPLEMENTED if paths == 1 else StatusCode.PERMISSION_DENIED
            return deny(UNKNOWN_METHOD, message, code)
        method = profile.allowed.get(path)
        if method is None:
            method = METHODS[path]
            message = f"{_of(profile)} does not allow {method.name}"
            return deny(METHOD, message, profile.denial_code(method))
        visibility: PodVisibility | None = None
        if profile.restricts_pods and is_about_pods(method):
            if not is_in_tables(method):
                what = "has messages of which it is not known what pods they are about"
                message = f"{_of(profile)} does not allow {method.name}, which {what}"
                return deny(METHOD, message, profile.denial_code(method))
            visibility = PodVisibility(profile.spec, connection.peer, self._resources.pod_cache)
            if visibility.sees_no_pod:
                message = f"{_of(profile)}: the caller runs in no pod that is known"
                return deny(OWN_POD, message)
        if visibility is None and not profile.spec.scrub:
            return self._rules.begin(connection, call, stream, headers)
        message_filter = ProfileFilter(profile, method, visibility, self._scrubber)
        return self._rules.begin(connection, call, stream, headers, message_filter)


def not_visible_message(profile: Profile, method: Method) -> str:
    """Return the status message for a call about a pod that is not visible, or that does not
    exist: the message does not tell which."""
    own = "the caller's own pod" if profile.spec.own_pod else "pods"
    namespaces = profile.spec.namespaces
    where = "" if namespaces is None else " of namespaces " + ", ".join(namespaces)
    return f"{_of(profile)} allows {method.name} for {own}{where} alone"


def _of(profile: Profile) -> str:
    return f"criproxy: profile {profile.name}"
