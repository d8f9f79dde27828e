"""A listener's profile, kept on its calls: before the rules what is asked, after them what is
answered."""

from google.protobuf.message import Message

from criproxy.cri.methods import METHODS, Method
from criproxy.cri.naming import resolve
from criproxy.enforce.evaluation.effects import ProfileDenial
from criproxy.enforce.policies.deny_policy import refused
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
from criproxy.wire.hpack.decoder import Header
from criproxy.wire.intercept.stream_handler import HeldStream, Hold
from criproxy.wire.reading.calls import Call

METHOD = "method"
"""The reason for a method that the profile does not have."""

UNKNOWN_METHOD = "unknown_method"
"""The reason for one that the CRI does not have."""

_LONGEST = 120
"""Characters of what was called that a client is told back."""


class ProfileFilter:
    """Applies a profile to the messages of one call.

    A :class:`criproxy.enforce.evaluation.evaluation.MessageFilter`.
    """

    def __init__(
        self, profile: Profile, method: Method, sight: PodVisibility | None, scrubber: Scrubber
    ) -> None:
        """``sight`` is None where the call may be about any pod, or is about none."""
        self.looks_at_request = sight is not None
        self.hides_failures = sight is not None and not is_about_one(method)
        self._profile = profile
        self._method = method
        self._sight = sight
        self._scrubber = scrubber

    def request(self, message: Message) -> Message:
        """See :class:`criproxy.enforce.evaluation.evaluation.MessageFilter`."""
        if self._sight is None:
            return message
        try:
            return self._sight.narrow_request(self._method, message)
        except NotVisibleError as error:
            raise ProfileDenial(error.reason, out_of_reach(self._profile, self._method)) from error

    def response(self, message: Message) -> Message | None:
        """See :class:`criproxy.enforce.evaluation.evaluation.MessageFilter`."""
        shown = type(message)()
        shown.CopyFrom(message)
        shown.DiscardUnknownFields()
        try:
            left = self._sight is None or self._sight.narrow_response(shown)
        except NotVisibleError as error:
            raise ProfileDenial(error.reason, out_of_reach(self._profile, self._method)) from error
        if not left and self._method.server_streaming:
            return None
        self._scrubber.scrub(shown)
        return shown


class ProfilePolicy:
    """The policy of a listener that has a profile (other than ``full``)."""

    enforcing = True

    def __init__(self, profile: Profile, resources: Resources, rules: RulePolicy) -> None:
        """``rules`` are those in force, asked about what the profile allows. Where the profile
        bounds pods they have to be learning, see Policy."""
        self._profile = profile
        self._resources = resources
        self._rules = rules
        self._scrubber = Scrubber(profile.spec.scrub)

    def wanted(self, path: bytes) -> bool:
        """Want every call: what is not known to be allowed is denied, and that takes its headers
        (``:path`` may come twice)."""
        return True

    def begin(
        self, connection: Connection, call: Call | None, stream: HeldStream, headers: list[Header]
    ) -> Hold | None:
        """See :class:`criproxy.relay.policy.Policy`."""
        path = stream.path.decode("latin-1")
        profile = self._profile

        def deny(reason: str, message: str) -> Hold:
            named = resolve(stream.path)
            counts = self._resources.counts
            return refused(counts, connection, named, call, stream, reason, message)

        if path not in METHODS or sum(name == b":path" for name, _ in headers) != 1:
            what = path[:_LONGEST].encode("ascii", "backslashreplace").decode()
            message = f"{_of(profile)} allows nothing that is not in the CRI, as {what}"
            return deny(UNKNOWN_METHOD, message)
        method = profile.allowed.get(path)
        if method is None:
            name = METHODS[path].name
            return deny(METHOD, f"{_of(profile)} does not allow {name}")
        sight: PodVisibility | None = None
        if profile.bounds_pods and is_about_pods(method):
            if not is_in_tables(method):
                what = "has messages of which it is not known what pods they are about"
                return deny(METHOD, f"{_of(profile)} does not allow {method.name}, which {what}")
            sight = PodVisibility(profile.spec, connection.peer, self._resources.memory)
            if sight.is_blind:
                message = f"{_of(profile)}: the caller runs in no pod that is known"
                return deny(OWN_POD, message)
        if sight is None and not profile.spec.scrub:
            return self._rules.begin(connection, call, stream, headers)
        scope = ProfileFilter(profile, method, sight, self._scrubber)
        return self._rules.begin(connection, call, stream, headers, scope)


def out_of_reach(profile: Profile, method: Method) -> str:
    """Say that a call is about a pod that is out of reach, or about none: it is not told which."""
    own = "the caller's own pod" if profile.spec.own_pod else "pods"
    namespaces = profile.spec.namespaces
    where = "" if namespaces is None else " of namespaces " + ", ".join(namespaces)
    return f"{_of(profile)} allows {method.name} for {own}{where} alone"


def _of(profile: Profile) -> str:
    return f"criproxy: profile {profile.name}"
