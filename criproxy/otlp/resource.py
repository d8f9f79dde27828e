"""The resource that all telemetry of a daemon has: criproxy on its node."""

from criproxy import __version__


def resource_attributes(node: str) -> dict[str, str]:
    """Return the resource's attributes, with OpenTelemetry's names; ``node`` is the node's name."""
    return {
        "service.name": "criproxy",
        "service.version": __version__,
        "host.name": node,
        "k8s.node.name": node,
    }
