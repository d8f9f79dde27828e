"""The types of configuration values, and the base class of the configuration's sections."""
