"""Fixtures of the prompt tests: the tiny checkpoints of the engine tests."""

from tests.engines.conftest import checkpoint as checkpoint
