"""The package of the starter model is built once per data folder, and a half-built one is never used."""

import logging
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.support.processes import PROJECT
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.models.package import open_package
from detector.models.starter import STARTER_NAME, StarterUnavailable, build, starter_package
from detector.models.starter.sources import NETWORKS
from tests.support.starter import needs_starter

_BUILD = (
    'import logging, sys, pathlib; logging.basicConfig(level="INFO"); '
    'from detector.models.starter import build; {more}'
    'print(build.starter_package(pathlib.Path(sys.argv[1])))'
)


def _building(data: Path, more: str = '') -> 'subprocess.Popen[str]':
    """Start a process that builds the package and prints its folder."""
    command = [sys.executable, '-c', _BUILD.format(more=more), str(data)]
    return subprocess.Popen(command, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@needs_starter
def test_the_first_call_builds_a_package_and_later_calls_return_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The package runs, names its origin, carries licence and notice, and is built once, with a line in the log."""
    caplog.set_level(logging.INFO, 'wholebody.models')
    folder = starter_package(tmp_path)
    package = open_package(folder)
    PoseEngine(package, EngineOptions(backend_type='onnxruntime')).check()
    assert package.name == STARTER_NAME
    assert package.wholebody.precision == 'f32'
    assert package.wholebody.licence == 'Apache-2.0'
    assert 'mediapipe 0.10.' in package.wholebody.origin
    assert 'Apache License' in (folder / 'LICENSE').read_text()
    assert all(network.sha256 in (folder / 'NOTICE').read_text() for network in NETWORKS)
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert starter_package(tmp_path) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    lines = [record.getMessage() for record in caplog.records if record.name == 'wholebody.models']
    assert len(lines) == 1
    assert lines[0].startswith('the starter model was built in ')


@needs_starter
def test_two_processes_at_once_build_once(tmp_path: Path) -> None:
    """One of two processes that start together builds; both return the same folder."""
    processes = [_building(tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in processes]
    assert len({folder for folder, _ in answers}) == 1
    assert ''.join(log for _, log in answers).count('was built in') == 1


@needs_starter
def test_a_killed_build_leaves_nothing_that_is_used(tmp_path: Path) -> None:
    """A process killed while it writes leaves no package; the next one builds and removes the leftovers."""
    pause = 'import time; build.os.fsync = lambda number: (print("writing", flush=True), time.sleep(60)); '
    with _building(tmp_path, pause) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == 'writing\n'
        process.send_signal(signal.SIGKILL)
    (leftover,) = [path for path in (tmp_path / STARTER_NAME).iterdir() if path.is_dir()]
    assert leftover.name.startswith('.')
    folder = starter_package(tmp_path)
    assert [path for path in folder.parent.iterdir() if path.is_dir()] == [folder]


@needs_starter
def test_a_damaged_package_is_built_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A package whose bytes changed on the disk is noticed by its hashes, and replaced."""
    folder = starter_package(tmp_path)
    (folder / 'pose.onnx').write_bytes(b'damaged')
    assert starter_package(tmp_path) == folder
    open_package(folder)
    assert any('is built again: pose.onnx: sha256 is' in record.getMessage() for record in caplog.records)


@needs_starter
def test_without_write_access_it_is_built_in_a_temporary_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A data folder that cannot be made is reported; the package works, and the process builds it once."""
    (tmp_path / 'file').touch()
    folder = starter_package(tmp_path / 'file' / 'data')
    assert open_package(folder).name == STARTER_NAME
    assert starter_package(tmp_path / 'file' / 'data') == folder
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert 'cannot be written (Not a directory): the starter model is built in a temporary folder' in line


@needs_starter
def test_the_temporary_folder_ends_with_the_process(tmp_path: Path) -> None:
    """A package that was built in a temporary folder is removed when its process ends."""
    (tmp_path / 'file').touch()
    with _building(tmp_path / 'file') as process:
        folder, log = process.communicate(timeout=60)
    assert process.returncode == 0, log
    assert not Path(folder.strip()).exists()


@needs_starter
def test_no_place_to_write_at_all_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If temporary files cannot be written either, the error names both places."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'missing'))
    (tmp_path / 'file').touch()
    with pytest.raises(StarterUnavailable, match='DATA_FOLDER or in the folder of .*missing.*No such file'):
        starter_package(tmp_path / 'file')


@needs_starter
def test_a_package_that_the_image_carries_needs_no_distribution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that was built into the folder of shipped files is used as it is; nothing is written or needed."""
    monkeypatch.setattr(build, 'MODEL_FILES', tmp_path / 'shipped')
    folder = build.build_starter(tmp_path / 'shipped' / STARTER_NAME)
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    assert starter_package(tmp_path / 'data') == folder
    assert not (tmp_path / 'data').exists()


@needs_starter
def test_an_update_builds_anew_and_keeps_few_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another person detector means another folder; only the latest builds are kept."""
    folders = [starter_package(tmp_path)]
    for number in range(build._KEPT):
        changed = tmp_path / f'{number}.onnx'
        changed.write_bytes(build.PERSON_DETECTOR.read_bytes() + number * b'\0\0')
        monkeypatch.setattr(build, '_key', lambda number=number: f'key{number}')
        folders.append(starter_package(tmp_path))
    kept = {path for path in (tmp_path / STARTER_NAME).iterdir() if path.is_dir()}
    assert kept == set(folders[-build._KEPT :])


def test_the_key_depends_on_the_person_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other weights of the person detector give another key."""
    before = build._key()
    (tmp_path / 'other.onnx').write_bytes(b'other')
    monkeypatch.setattr(build, 'PERSON_DETECTOR', tmp_path / 'other.onnx')
    assert build._key() != before


def test_a_missing_distribution_is_an_honest_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the distribution nothing is written, and the error names it and the remedy."""
    monkeypatch.setattr(sys, 'path', [str(tmp_path)])
    with pytest.raises(StarterUnavailable, match='mediapipe, which is not installed; .*`uv '):
        starter_package(tmp_path / 'data')
    assert not (tmp_path / 'data').exists()
