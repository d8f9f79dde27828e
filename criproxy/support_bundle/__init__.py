"""The support bundle: what one has to see to find a fault of a node, without secrets.

- ``bundle``: the archive, its parts and its limits.
- ``parts``: what goes in: configuration, versions, pages, logs, the doctor's findings.
- ``tail``: the ends of logs.
- ``redaction``: a configuration without secrets.
"""
