"""The benchmarks recognise the node's refusals."""

from pathlib import Path

from benchmarks import load, soak_load
from detector.serving import admission


def test_the_texts_of_refusals_are_those_of_admission() -> None:
    """Load and soak count refusals by parts of their messages, so a reworded message must be followed there."""
    source = Path(admission.__file__).read_text(encoding='utf-8')
    for text in (*load._SAID, *soak_load.REFUSALS):
        assert text in source, text
