"""The projects that name a node, on disk."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from detector.label_studio.backend import known_projects
from detector.label_studio.backend.known_projects import KnownProjects

NOON = datetime(2026, 11, 28, 12, 0, 0, 42, tzinfo=UTC)


def test_projects_survive_a_restart(tmp_path: Path) -> None:
    """A project keeps its times and titles over a restart; a forgotten one is new, and may be forgotten twice."""
    projects = KnownProjects(tmp_path / 'folder' / 'projects.json')
    projects.keep(7).start(NOON)
    projects.keep(7).note_titles('m 1.1', 'm 1.0')
    projects.keep(7).note_titles('m 1.1')
    projects.keep(8)
    for _ in range(2):
        projects.forget(8)
    projects.save()
    again = KnownProjects(tmp_path / 'folder' / 'projects.json')
    assert again.numbers() == [7]
    found = again.keep(7)
    assert (found.begin, found.since, found.titles) == (NOON, NOON, ['m 1.0', 'm 1.1'])
    assert again.keep(8).begin is None
    assert [path.name for path in (tmp_path / 'folder').iterdir()] == ['projects.json']


def test_the_title_in_an_older_file_is_read(tmp_path: Path) -> None:
    """A file with one title per project keeps it."""
    path = tmp_path / 'projects.json'
    path.write_text('{"projects": {"1": {"title": "m 1.0"}, "2": {"title": null}}}')
    projects = KnownProjects(path)
    assert [projects.keep(number).titles for number in (1, 2)] == [['m 1.0'], []]


@pytest.mark.parametrize(
    'content', [b'', b'{', b'[]', b'{"projects": {"x": {}}}', b'{"projects": {"1": {"begin": 1e99}}}']
)
def test_a_damaged_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    """A damaged file is kept under another name, and all projects are new."""
    path = tmp_path / 'projects.json'
    path.write_bytes(content)
    projects = KnownProjects(path)
    assert len(projects) == 0
    assert path.with_suffix('.broken').read_bytes() == content
    projects.keep(1)
    projects.save()
    assert 1 in KnownProjects(path)


def test_the_number_of_projects_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The project that has not named the node for the longest time is dropped when there are too many."""
    monkeypatch.setattr(known_projects, 'MAX_PROJECTS', 3)
    projects = KnownProjects(tmp_path / 'projects.json')
    for number in (1, 2, 3, 1, 4):
        projects.keep(number)
    assert projects.numbers() == [3, 1, 4]
