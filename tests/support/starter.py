"""Tests of the starter model need the distribution that it is built from; no Python from 3.13 on has a wheel of it."""

import sys

import pytest

needs_starter = pytest.mark.skipif(
    sys.version_info >= (3, 13), reason='mediapipe, which the starter model is built from, has no wheel for this Python'
)
