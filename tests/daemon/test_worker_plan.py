"""The assignment of listeners to workers, and the workers that share their pod caches."""

from criproxy.config.load import parse
from criproxy.daemon.supervisor.processes.worker_plan import plan_workers

LISTENERS = """
listeners:
- {endpoint: /run/a.sock, runtime: /run/r.sock}
- {endpoint: /run/b.sock, runtime: /run/r.sock}
- {endpoint: /run/images.sock, runtime: /run/r.sock, profile: images-only}
- {endpoint: /run/team.sock, runtime: /run/r.sock, profile: team}
- {endpoint: /run/x/team.sock, runtime: /run/r.sock, allow: {uid: [7]}}
profiles:
  team: {methods: ["@read"], namespaces: [team]}
"""


def test_a_worker_for_each_degree_of_trust() -> None:
    """Unrestricted listeners share a worker; each other one has its own, with a name of its own."""
    plans = plan_workers(parse(LISTENERS, "c"))
    assert [(plan.name, [each.endpoint.path for each in plan.listeners]) for plan in plans] == [
        ("full", ["/run/a.sock", "/run/b.sock"]),
        ("images", ["/run/images.sock"]),
        ("team", ["/run/team.sock"]),
        ("team-2", ["/run/x/team.sock"]),
    ]


def test_restricted_clients_reach_no_other_pod_cache() -> None:
    """Only the unrestricted worker updates the pod caches of others: no worker decodes messages of
    another worker's restricted clients, however large and frequent."""
    plans = plan_workers(parse(LISTENERS, "c"))
    assert [plan.name for plan in plans if plan.shares_pods] == ["full"]


def test_nobody_is_told_of_pods_in_vain() -> None:
    """Where there is no other worker nothing is shared."""
    full = "listeners: [{endpoint: /run/a.sock, runtime: /run/r.sock}]"
    assert [plan.shares_pods for plan in plan_workers(parse(full, "c"))] == [False]
    alone = LISTENERS + "workers: {isolation: none}\n"
    assert [plan.shares_pods for plan in plan_workers(parse(alone, "c"))] == [False]
