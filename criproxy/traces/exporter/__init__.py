"""The exporter process: makes spans of the workers' calls and sends them."""
