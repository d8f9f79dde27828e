"""Options, tables and HTTP requests that several commands share."""
