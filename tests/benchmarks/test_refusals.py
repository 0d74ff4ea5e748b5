"""The benchmarks recognise the node's refusals."""

from pathlib import Path

from benchmarks import cameras, load, soak_load
from detector.api import in_flight
from detector.serving import admission


def test_the_texts_of_refusals_are_those_of_the_node() -> None:
    """Benchmarks count refusals by parts of their messages, so a reworded message must be followed there."""
    source = ''.join(Path(str(module.__file__)).read_text(encoding='utf-8') for module in (admission, in_flight))
    for text in (*load._SAID, *soak_load.REFUSALS, *cameras.REFUSALS, cameras.REPLACEMENT):
        assert text in source, text
