"""The types of configuration values, and the base of every section of the configuration."""
