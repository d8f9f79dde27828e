"""A rule that slows the pull of an image, which is the cause of a pod start then."""

from typing import Any, Final

SLOW: Final[dict[str, Any]] = {
    "name": "slow-pull",
    "match": {"methods": ["PullImage"]},
    # Much longer than a sandbox takes beside busy loops.
    "delay": {"fixed": "8s"},
}
