"""Selects a client's active policy by its listener's profile and the peers that it applies to."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final, Protocol

from criproxy.config.schema import ListenerConfig
from criproxy.enforce.counts import Counts
from criproxy.peers.peer import Connection
from criproxy.relay.policy import ActivePolicy, Policy
from criproxy.rules.profiles.profile import Profile, ProfileSpec, profile_of
from criproxy.wire.intercept.held_bytes import HeldBytesBudget

if TYPE_CHECKING:  # what these import costs memory that is not paid for without rules
    from criproxy.enforce.policies.rule_policy import RulePolicy as RulesPolicy
    from criproxy.enforce.resources import Resources


_CALLS_ALONE: Final = "criproxy: this listener, which has `allow`, serves calls of the CRI alone"


class PolicyWrapper(Protocol):
    """Puts a policy of its own before every other: the gate of a blocking audit log."""

    def before(self, policy: Policy | None) -> Policy | None:
        """Return the policy that takes the place of ``policy``."""


class PolicyRegistry:
    """One active policy for all full listeners, one for those of them that have `allow`, and one
    for each listener with another profile."""

    def __init__(
        self,
        listeners: Sequence[ListenerConfig],
        profiles: Mapping[str, ProfileSpec],
        budget: HeldBytesBudget,
        counts: Counts,
        wrapper: PolicyWrapper | None = None,
        others_select_pods: bool = False,
    ) -> None:
        """``profiles`` are those of the configuration; ``counts`` counts rejected callers.

        ``others_select_pods``: listeners of another worker select by pod.
        """
        self._budget = budget
        self._counts = counts
        self._wrapper = wrapper
        self._full = ActivePolicy(budget, self._before(None))
        self._admitted = ActivePolicy(budget, self._before(None), _CALLS_ALONE)
        self._scoped: dict[str, tuple[Profile, ActivePolicy]] = {}
        self._allow = {str(each.endpoint): each.allow for each in listeners}
        for each in listeners:
            profile = profile_of(each.profile, profiles)
            if profile is not None:
                refusal = f"criproxy: profile {profile.name} allows calls of the CRI alone"
                active = ActivePolicy(budget, http1_refusal=refusal)
                self._scoped[str(each.endpoint)] = (profile, active)
        self.scoped = bool(self._scoped)
        """Whether a listener has a profile."""
        self.bound_pods = others_select_pods or any(
            profile.restricts_pods for profile, _ in self._scoped.values()
        )
        """Whether a profile selects by pod, here or in another worker."""

    def policy_of(self, connection: Connection) -> ActivePolicy:
        """Return the active policy of a client that has just been accepted."""
        allow = self._allow.get(connection.listener)
        if allow is not None:
            from criproxy.enforce.policies.deny_policy import DenyAllPolicy, rejection_reason

            reason = rejection_reason(allow, connection.peer)
            if reason is not None:
                denial = DenyAllPolicy(reason, self._counts)
                return ActivePolicy(self._budget, self._before(denial), denial.message)
        scoped = self._scoped.get(connection.listener)
        if scoped is not None:
            return scoped[1]
        return self._full if allow is None else self._admitted

    def adopt(self, rules: "RulesPolicy | None", resources: "Resources | None") -> None:
        """Put rules in force, for the calls that begin from now on.

        Both are None where there are no rules and no profiles.
        """
        has_work = rules is not None and (bool(rules.ruleset.rules) or self.bound_pods)
        for active in (self._full, self._admitted):
            active.policy = self._before(rules if has_work else None)
        if rules is None or resources is None:
            return
        for profile, active in self._scoped.values():
            from criproxy.enforce.policies.profile_policy import ProfilePolicy

            active.policy = self._before(ProfilePolicy(profile, resources, rules))

    def _before(self, policy: Policy | None) -> Policy | None:
        return policy if self._wrapper is None else self._wrapper.before(policy)
