"""Where records go. One file a sink."""
