"""The targets of the fuzzing harness without the fuzzer."""

import logging
import os
from collections.abc import Iterator

import pytest

from .harness import TARGETS, answer_to, seeds


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """Restore logs and environment: the harness disables logs, and its node sets variables for upstream."""
    environment = dict(os.environ)
    yield
    logging.disable(logging.NOTSET)
    os.environ.clear()
    os.environ.update(environment)


@pytest.mark.parametrize('name', TARGETS)
def test_every_target_takes_good_and_damaged_inputs(name: str) -> None:
    """Valid, halved and empty inputs raise no error in any target."""
    found = seeds(name)
    assert found
    for seed in [*found, *(seed[: len(seed) // 2] for seed in found), b'\0', b'\0part\0']:
        TARGETS[name](seed)


def test_good_events_reach_their_handlers() -> None:
    """The node answers the valid events without an error, so the fuzzer reaches their handlers."""
    answers = [answer_to(seed) for seed in seeds('socketio_event')]
    assert all(answer is not None and 'error' not in answer for answer in answers), answers
    assert {'poses', 'items', 'point_detections', 'outbox_mode', 'status'} <= {
        key for one in answers for key in one or {}
    }
