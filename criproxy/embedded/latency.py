"""Draws the duration of each call of the embedded runtime.

The medians were measured on containerd 1.6 with runc and a bridge network on a small machine;
PullImage is an estimate for a small image. A duration is drawn from a log-normal distribution
around the median.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Final

from criproxy.configtypes.values import parse_duration

MEDIANS: Final[Mapping[str, float]] = {
    "CheckpointContainer": 0.250,
    "CheckpointPod": 0.400,
    "ContainerStats": 0.0015,
    "CreateContainer": 0.010,
    "ExecSync": 0.025,
    "ListContainerStats": 0.003,
    "ListPodSandboxMetrics": 0.008,
    "ListPodSandboxStats": 0.008,
    "PodSandboxStats": 0.006,
    "PullImage": 1.500,
    "RemoveContainer": 0.040,
    "RemoveImage": 0.020,
    "RemovePodSandbox": 0.030,
    "RestorePod": 0.400,
    "RunPodSandbox": 0.090,
    "StartContainer": 0.050,
    "StopContainer": 0.040,
    "StopPodSandbox": 0.090,
    "StreamContainerStats": 0.003,
    "StreamPodSandboxMetrics": 0.008,
    "StreamPodSandboxStats": 0.008,
    "UpdateContainerResources": 0.010,
}
"""Median duration in seconds, by method."""
OTHERS: Final = 0.0002
"""Median duration in seconds of all other methods, which only read memory."""
SIGMA: Final = 0.35
"""Standard deviation: 95 % of calls take between half and twice the median."""
LONGEST: Final = 8.0
"""Maximum of a draw, in medians."""

_FACTOR: Final = re.compile(r"(\d+(?:\.\d+)?)x")


@dataclass(frozen=True, slots=True)
class Latency:
    """Durations of calls: ``factor`` times containerd's, or ``fixed`` seconds if set."""

    factor: float = 1.0
    fixed: float | None = None
    source: Random = field(default_factory=Random)

    def sample(self, method: str) -> float:
        """Return the duration of one call of a method, in seconds."""
        if self.fixed is not None:
            return self.fixed
        if not self.factor:
            return 0.0
        spread = min(math.exp(self.source.gauss(0.0, SIGMA)), LONGEST)
        return self.factor * MEDIANS.get(method, OTHERS) * spread


def parse_latency(text: str) -> Latency:
    """Parse ``real`` (containerd's times), ``none``, a factor ``0.5x``, or a duration ``5ms``.

    Raises ValueError, which names the valid forms.
    """
    if text == "real":
        return Latency()
    if text == "none":
        return Latency(factor=0.0)
    if match := _FACTOR.fullmatch(text):
        return Latency(factor=float(match[1]))
    try:
        return Latency(fixed=parse_duration(text))
    except ValueError:
        raise ValueError(
            f"latency {text!r}: write real, none, a factor of the real times such as 0.5x, "
            "or a fixed duration such as 5ms"
        ) from None
