"""OTLP over HTTP with protobuf, for the audit log's records and for spans (opentelemetry.io)."""
