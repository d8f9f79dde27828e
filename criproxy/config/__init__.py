"""The configuration file: its schema, and its loading with errors that name file, key and line."""
