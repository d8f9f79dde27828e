"""What every section of the configuration has in common."""

from msgspec import Struct


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the file, in which a key that is not known is an error."""
