"""What rules there are for the calls of one method."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from criproxy.cri.naming import Named

if TYPE_CHECKING:
    from criproxy.rules.rule import Rule


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules that may act on a method's calls, in order, and the classes of its messages, which
    are None outside the CRI."""

    rules: "tuple[Rule, ...]"
    named: Named
    request_class: type[Message] | None
    response_class: type[Message] | None
    server_streaming: bool
