"""The exception tree and its statuses."""

import re

import detector.errors
from detector.errors import NoLearningLoop, WholebodyError


def descendants(kind: type[WholebodyError]) -> dict[str, type[WholebodyError]]:
    own = {child.__name__: child for child in kind.__subclasses__() if child.__module__ == 'detector.errors'}
    return own | {name: error for child in own.values() for name, error in descendants(child).items()}


def test_the_docstring_shows_the_tree() -> None:
    """The module's docstring lists every error below its parent, with the status that it is answered with."""
    parents = ['WholebodyError']
    shown = {}
    for line in (detector.errors.__doc__ or '').splitlines():
        found = re.match(r'([│ ]*[├└]── )(\w+) +(\d{3}) ', line)
        if found is not None:
            depth = len(found[1]) // 4
            parents[depth:] = [found[2]]
            shown[found[2]] = (parents[depth - 1], int(found[3]))
    errors = descendants(WholebodyError)
    assert shown == {name: (error.__bases__[0].__name__, int(error.status)) for name, error in errors.items()}


def test_a_missing_loop_names_the_setting() -> None:
    """The message for a missing Loop names the setting to set."""
    assert 'set LOOP_HOST' in str(NoLearningLoop('/upload'))
