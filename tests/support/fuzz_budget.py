"""Duration of the fuzz tests: short in CI, or WHOLEBODY_FUZZ_SECONDS."""

import os
import time
from collections.abc import Callable
from typing import Final

import hypothesis

FUZZ_SECONDS: Final = int(os.environ.get('WHOLEBODY_FUZZ_SECONDS', '0'))
"""Value of WHOLEBODY_FUZZ_SECONDS, the duration of each fuzz test in seconds; 0 if it is not set."""


def seconds(default: int) -> int:
    """Return the duration of one fuzz test in seconds; the argument applies if WHOLEBODY_FUZZ_SECONDS is not set."""
    return FUZZ_SECONDS or default


def repeat(check: Callable[[], None], default: int) -> int:
    """Run a hypothesis test repeatedly, with new examples each time.

    :param default: duration in seconds if WHOLEBODY_FUZZ_SECONDS is not set.
    :return: number of runs.
    """
    end = time.monotonic() + seconds(default)
    rounds = 0
    few = hypothesis.settings(hypothesis.settings.get_profile('long'), max_examples=25, database=None)(check)
    while time.monotonic() < end:
        hypothesis.seed(rounds)(few)()
        rounds += 1
    return rounds
