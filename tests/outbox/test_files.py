"""The folder of the outbox after kills, stray files and a full disk."""

import json
import os
from pathlib import Path

import pytest

from detector.outbox import files as outbox_files
from detector.outbox.files import Entry, OutboxFiles

NAMES = ['2026-01-01_00:00:00.000001', '2026-01-01_00:00:00.000002', '2026-01-01_00:00:00.000003']


@pytest.fixture
def files(tmp_path: Path) -> OutboxFiles:
    made = OutboxFiles(tmp_path / 'outbox')
    made.prepare()
    return made


def write(files: OutboxFiles, name: str, *, priority: bool = False) -> Entry:
    entry = files.write(name, b'jpeg', b'{}', priority=priority)
    assert entry is not None
    return entry


def all_files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}


def test_images_lie_in_upstreams_form(files: OutboxFiles) -> None:
    """Each image has a folder below that of its priority, its files carry that name, and nothing else remains."""
    entry = write(files, NAMES[0])
    urgent = write(files, NAMES[1], priority=True)
    assert all_files(files.folder) == {
        f'{queue}/{name}/image_{name}.{ending}'
        for queue, name in (('normal', NAMES[0]), ('priority', NAMES[1]))
        for ending in ('jpg', 'json')
    }
    assert (entry.jpeg.read_bytes(), entry.metadata.read_bytes()) == (b'jpeg', b'{}')
    assert files.scan() == ([urgent, entry], [])
    assert files.entry(NAMES[0], priority=False, size=6) == entry


def test_upstreams_own_outbox_reads_it(files: OutboxFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node of learning_loop_node finds the same images in the folder."""
    from learning_loop_node.detector.outbox import Outbox
    from learning_loop_node.globals import GLOBALS

    monkeypatch.setattr(GLOBALS, 'data_folder', str(files.folder.parent))
    for name, value in (('LOOP_HOST', 'h'), ('LOOP_ORGANIZATION', 'o'), ('LOOP_PROJECT', 'p')):
        monkeypatch.setenv(name, value)
    entries = [write(files, NAMES[1], priority=True), write(files, NAMES[0])]
    assert Outbox().get_upload_folders() == [str(entry.folder) for entry in entries]


def test_a_taken_name_is_told_and_nothing_is_overwritten(files: OutboxFiles) -> None:
    """A save under an existing name returns None and overwrites nothing, since two processes may choose one name."""
    entry = write(files, NAMES[0])
    assert files.write(NAMES[0], b'other', b'{"a": 1}', priority=False) is None
    assert entry.jpeg.read_bytes() == b'jpeg'
    assert len(all_files(files.folder)) == 2


def test_interrupted_saves_and_removals_are_cleaned_up(files: OutboxFiles) -> None:
    """The remains of a kill before the rename into place, and after the rename out of it, are deleted."""
    kept = write(files, NAMES[0])
    for name in ('.saving', '.removing'):
        (files.folder / name / NAMES[1]).mkdir()
        (files.folder / name / NAMES[1] / f'image_{NAMES[1]}.json').write_text('{')
        (files.folder / name / 'a file').write_text('{')
    files.prepare()
    assert files.scan() == ([kept], [])
    assert len(all_files(files.folder)) == 2


def test_what_is_no_image_is_found_with_the_reason(files: OutboxFiles) -> None:
    """Incomplete folders, empty and stray files, links and foreign names are reported; good images among them stay."""
    kept = write(files, NAMES[1])
    normal = files.folder / 'normal'
    lacking = write(files, NAMES[0])
    lacking.jpeg.unlink()
    empty = write(files, NAMES[2])
    empty.metadata.write_bytes(b'')
    (normal / 'notes.txt').write_text('hello')
    (normal / 'link').symlink_to(kept.folder)
    folder_in_place = normal / '2026-01-01_00:00:00.000004'
    (folder_in_place / f'image_{folder_in_place.name}.json').mkdir(parents=True)
    renamed = '2026-01-01_00:00:00.000009'
    kept.folder.with_name(renamed).mkdir()
    (normal / renamed / kept.jpeg.name).write_bytes(b'jpeg')
    for odd in ('new\nline', 'b\udcffd', '9999-12-31_23:59:59.999999'):
        (normal / odd).mkdir()
        for ending in ('jpg', 'json'):
            (normal / odd / f'image_{odd}.{ending}').write_bytes(b'{}')
    good, bad = files.scan()
    assert good == [kept]
    assert {path.name: reason for path, reason in bad} == {
        NAMES[0]: f'image_{NAMES[0]}.jpg: No such file or directory',
        NAMES[2]: f'image_{NAMES[2]}.json is empty',
        folder_in_place.name: f'image_{folder_in_place.name}.json is empty',
        'notes.txt': 'it is not a folder',
        'link': 'it is not a folder',
        renamed: f'image_{renamed}.json: No such file or directory',
        'new\nline': 'its name is not a time',
        'b\udcffd': 'its name is not a time',
        '9999-12-31_23:59:59.999999': 'its name is not a time',
    }
    for path, reason in bad:
        files.set_aside(path, reason)
    assert files.scan() == ([kept], [])
    assert {path.name for path in (files.folder / 'set_aside').iterdir()} == {path.name for path, _ in bad}


def test_of_what_is_set_aside_the_latest_is_kept(files: OutboxFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest images that were set aside are kept up to a limit, and equal names do not overwrite each other."""
    monkeypatch.setattr(outbox_files, 'MAX_SET_ASIDE', 3)
    names: list[set[str]] = []
    for number in range(5):
        entry = files.write(NAMES[0], f'{number}'.encode(), b'{}', priority=False)
        assert entry is not None
        files.set_aside(entry.folder, 'test')
        names.append({path.name.removeprefix(NAMES[0]) for path in (files.folder / 'set_aside').iterdir()})
    kept = (files.folder / 'set_aside').rglob('*.jpg')
    assert {path.read_text() for path in kept} == {'2', '3', '4'}
    assert names[:3] == [{''}, {'', '-2'}, {'', '-2', '-3'}]


def test_a_folder_that_is_deleted_is_made_anew(files: OutboxFiles) -> None:
    """Saving and removing work after an operator has deleted the folder of a running node."""
    import shutil

    shutil.rmtree(files.folder)
    entry = write(files, NAMES[0])
    assert files.remove(entry)
    assert files.remove(entry), 'a removed entry must count as removed'
    shutil.rmtree(files.folder)
    assert files.remove(write(files, NAMES[1]))
    assert files.scan() == ([], [])


@pytest.mark.parametrize('number', [1, 2, 3, 4])
def test_a_failed_save_leaves_nothing(files: OutboxFiles, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """A save during which one of its syncs fails raises OSError and leaves no file."""
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(os.readlink(f'/proc/self/fd/{descriptor}'))
        if len(calls) == number:
            raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, 'fsync', fsync)
    with pytest.raises(OSError, match='No space left'):
        files.write(NAMES[0], b'jpeg', b'{}', priority=False)
    image, normal = files.folder / '.saving' / NAMES[0], files.folder / 'normal'
    expected = [image / f'image_{NAMES[0]}.json', image / f'image_{NAMES[0]}.jpg', image, normal]
    assert calls == list(map(str, expected[:number]))
    assert all_files(files.folder) == set()
    assert not [*(files.folder / '.saving').iterdir(), *(files.folder / '.removing').iterdir()]


def test_what_the_disk_does_not_tell_is_left_where_it_is(
    files: OutboxFiles, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An image whose size cannot be read now is not set aside, and does not keep the others from being found."""
    hidden, kept = write(files, NAMES[0]), write(files, NAMES[1])
    stat = Path.stat

    def failing(path: Path, **options: bool) -> os.stat_result:
        if path == hidden.jpeg:
            raise OSError(5, os.strerror(5))
        return stat(path, **options)

    monkeypatch.setattr(Path, 'stat', failing)
    assert files.scan() == ([kept], [])
    assert 'stays where it is until the next start: Input/output error' in caplog.text


def test_an_unusable_folder_is_an_error(tmp_path: Path) -> None:
    """A file in place of the queue's folder raises OSError."""
    files = OutboxFiles(tmp_path)
    (tmp_path / 'normal').write_text('')
    with pytest.raises(FileExistsError):
        files.prepare()
    with pytest.raises(FileExistsError):
        files.write(NAMES[0], b'jpeg', b'{}', priority=False)
    assert OutboxFiles(tmp_path / 'nowhere').scan() == ([], [])


def test_descriptions_say_what_an_image_is_about(files: OutboxFiles) -> None:
    """Descriptions have persons, tags, source and dates; unreadable metadata and foreign names leave fields empty."""
    about = {'box_detections': [{}, {}], 'tags': ['a'], 'source': 's', 'created': '2025-01-01'}
    entry = files.write(NAMES[0], b'jpeg', json.dumps(about).encode(), priority=True)
    assert entry is not None
    described = entry.describe()
    assert (described.persons, described.tags, described.source, described.created) == (2, ['a'], 's', '2025-01-01')
    assert (described.priority, described.saved_at) == (True, '2026-01-01T00:00:00.000001')
    assert described.bytes == len(b'jpeg') + len(json.dumps(about))
    entry.metadata.write_bytes(b'{"tags": [null, 7]}')
    assert entry.describe().tags == ['None', '7']
    for content in (b'{', b'[1]', b'{"box_detections": 5}', b'{"tags": 5}'):
        entry.metadata.write_bytes(content)
        assert entry.describe().persons is None
    assert write(files, '2026-02-31_00:00:00.000000').describe().saved_at is None


def test_the_reason_of_an_error_is_the_systems_text() -> None:
    """The reason has neither path nor number; an error without a text of the system is given as it is."""
    assert outbox_files.reason(OSError(28, 'No space left on device', '/data')) == 'No space left on device'
    assert outbox_files.reason(OSError('the server is gone')) == 'the server is gone'


def test_a_link_among_the_remains_is_deleted_and_not_followed(files: OutboxFiles) -> None:
    """The start deletes a link in the folder of remains, and leaves the image to which it leads."""
    kept = write(files, NAMES[0])
    (files.folder / '.removing' / 'link').symlink_to(kept.folder)
    files.prepare()
    assert list((files.folder / '.removing').iterdir()) == []
    assert files.scan() == ([kept], [])


def test_an_image_that_cannot_be_removed_stays(files: OutboxFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller is told that the image is still there, and it is found again."""
    entry = write(files, NAMES[0])

    def fail(*_: Path) -> None:
        raise OSError(5, os.strerror(5))

    monkeypatch.setattr(Path, 'rename', fail)
    assert not files.remove(entry)
    assert files.scan() == ([entry], [])
