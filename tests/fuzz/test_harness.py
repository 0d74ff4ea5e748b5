"""The fuzzing harness without its fuzzer: every target takes its good inputs."""

import logging
from collections.abc import Iterator

import pytest

from .harness import TARGETS, seeds


@pytest.fixture(autouse=True)
def _logs_again() -> Iterator[None]:
    """The harness silences them."""
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize('name', TARGETS)
def test_every_target_takes_good_and_damaged_inputs(name: str) -> None:
    """Good inputs, their halves and nothing at all raise nothing."""
    found = seeds(name)
    assert found
    for seed in [*found, *(seed[: len(seed) // 2] for seed in found), b'\0']:
        TARGETS[name](seed)
