"""The call that most loads make, and the result of the contenders that rewrite it."""

from typing import Final

PATH: Final = "/runtime.v1.RuntimeService/Version"
KUBELET: Final = "0.1.0"
"""What a kubelet's VersionRequest says; a rewritten one says ``SUFFIX`` after it."""
SUFFIX: Final = "-rewritten-on-its-way"
