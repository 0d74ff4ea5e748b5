"""The commands that set up a project: labeling configs."""

import pytest

from detector.cli.main import app
from detector.errors import InvalidRequest
from detector.pose.skeleton import PART_BY_NAME
from tests.support.commands import invoke, succeed


def test_all_parts_are_the_default() -> None:
    """Without `--parts`, one region holds the whole skeleton; with all parts named, each has a region of its own."""
    whole = succeed(app, 'labelstudio', 'config')
    parts = succeed(app, 'labelstudio', 'config', '--parts', ', '.join(PART_BY_NAME))
    assert parts == succeed(app, 'labelstudio', 'config', '--style', 'parts')
    assert 'value="pose"' in whole
    assert 'value="pose"' not in parts
    assert all(f'<Label value="{part}"' in parts for part in PART_BY_NAME)


@pytest.mark.parametrize('parts', ['', ' ', ',', 'body,tail'])
def test_empty_and_unknown_parts_are_refused(parts: str) -> None:
    """A list of parts that is empty, or that has an unknown part, is refused, even if a shell variable is empty."""
    fault = invoke(app, 'labelstudio', 'config', '--parts', parts).exception
    assert isinstance(fault, InvalidRequest)
    assert 'choose from body, feet' in str(fault)
