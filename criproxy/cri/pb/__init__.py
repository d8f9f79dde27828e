"""The CRI's messages, generated from ``proto/`` by ``make proto``: one module an API version."""
