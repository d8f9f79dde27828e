"""The errors that criproxy raises on purpose.

::

    CriproxyError
    ├── UsageError           what the user gave is wrong: one line on stderr, exit status 2
    │   ├── EndpointError    an endpoint that is not a usable unix socket address
    │   └── ConfigError      a configuration file that does not say what it means
    ├── UnavailableError     what was asked for is not there now: one line, exit status 1
    └── IncompleteError      a change failed and is not undone completely: one line, exit status 3

Each message is one line that names the thing and the remedy. What a peer does wrong on the wire
is not an exception here but an event of :mod:`criproxy.wire`.
"""


class CriproxyError(Exception):
    """The root: its message is fit to be shown to a user as it is."""

    exit_code = 1


class UsageError(CriproxyError):
    """What the user gave (a flag, a path, a file) is wrong."""

    exit_code = 2


class EndpointError(UsageError):
    """An endpoint that is not a usable unix socket address."""


class ConfigError(UsageError):
    """A configuration file that cannot be used: file, line, key and correction."""


class UnavailableError(CriproxyError):
    """A peer, a port or a file that is needed is missing or refuses."""


class IncompleteError(CriproxyError):
    """A change of the node failed, and something of it could not be put back."""

    exit_code = 3
