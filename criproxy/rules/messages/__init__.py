"""Protobuf messages: field paths, rewriting, differences, decompression."""
