"""Sockets: listening, pairing a client with the runtime, moving bytes, draining."""
