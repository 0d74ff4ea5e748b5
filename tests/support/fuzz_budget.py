"""How long the fuzzers may take: seconds in CI, as long as WHOLEBODY_FUZZ_SECONDS says by hand."""

import os
import time
from collections.abc import Callable
from typing import Final

import hypothesis

FUZZ_SECONDS: Final = int(os.environ.get('WHOLEBODY_FUZZ_SECONDS', '0'))
"""Of each fuzzer; 0: it is not set."""


def seconds(otherwise: int) -> int:
    """For one fuzzer."""
    return FUZZ_SECONDS or otherwise


def repeat(check: Callable[[], None], otherwise: int) -> int:
    """Run a hypothesis test again and again, with other examples each time.

    :param otherwise: seconds, if WHOLEBODY_FUZZ_SECONDS is not set.
    :return: how often.
    """
    end = time.monotonic() + seconds(otherwise)
    rounds = 0
    few = hypothesis.settings(hypothesis.settings.get_profile('long'), max_examples=25, database=None)(check)
    while time.monotonic() < end:
        hypothesis.seed(rounds)(few)()
        rounds += 1
    return rounds
