"""The base class of the configuration's sections."""

from msgspec import Struct


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping in the configuration file. An unknown key is an error."""
