"""A node for each test."""

from pathlib import Path

import pytest

from tests.doctor.nodes import Node


@pytest.fixture
def node(short_dir: Path) -> Node:
    """A node with systemd and the doctor, and nothing else."""
    return Node(short_dir)
