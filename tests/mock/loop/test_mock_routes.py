"""The mock Loop's own routes under /mock."""

from pathlib import Path

import pytest

from benchmarks.support.loops import MockLoopProcess
from benchmarks.support.packages import make_package, write_zip


def test_bad_packages_and_unknown_objects_are_refused(loop: MockLoopProcess, tmp_path: Path) -> None:
    """Errors say what is wrong, and a refused package leaves no files."""
    page = tmp_path / 'page.zip'
    page.write_bytes(b'<html>')
    for path, version, message in (
        (page, None, 'not a readable zip'),
        (write_zip(tmp_path / 'empty.zip', {'x': b''}), None, 'no model.json'),
        (write_zip(tmp_path / 'list.zip', {'model.json': b'[]'}), None, 'not an object'),
        (make_package(tmp_path / 'good.zip'), '1.0', 'exists already'),
    ):
        with pytest.raises(Exception, match=message):
            loop.upload_package(path, version)
    for call in (lambda: loop.set_target('9.9'), lambda: loop.delete_model('x'), lambda: loop.reports('x')):
        with pytest.raises(Exception, match='no (model|detector)'):
            call()
    assert len(loop.models()) == 1
    assert len(list((loop.folder / 'projects/zauberzeug/wholebody/models').iterdir())) == 1
    assert loop.http.get(f'{loop.api}x/models').status_code == 404
    assert loop.http.get(f'{loop.api}/models/x/y/file').status_code == 404


def test_malformed_targets_and_duplicates_can_be_set_up(loop: MockLoopProcess, tmp_path: Path) -> None:
    """A target without version or with a number, two models of one version, and no model can be set up."""
    bodies: tuple[object, ...] = ({'model_uuid': 'x'}, {'model_uuid': 'x', 'version': 1.1}, [], None)
    for body in bodies:
        loop.set_raw_target(body)
        assert loop.http.get(f'{loop.api}/deployment/target').json() == body
    loop.upload_package(make_package(tmp_path / 'twin.zip'), '1.0', duplicate=True)
    assert [model['version'] for model in loop.models()] == ['1.0', '1.0']
    loop.set_target('1.0')
    newest = loop.models()[1]['id']
    assert loop.target()['model_uuid'] == newest
    loop.delete_model(newest)
    assert loop.http.get(f'{loop.api}/deployment/target').status_code == 404
