"""Packages that are uploaded to the mock Loop."""

import io
import json
import zipfile
from pathlib import Path

from benchmarks.support.loops import MockLoopProcess
from benchmarks.support.packages import make_package, write_zip
from detector.models.package import MODEL_FORMAT


def test_a_package_gets_the_next_version(loop: MockLoopProcess, tmp_path: Path) -> None:
    """The served model.json has the announced version, and target and list show it."""
    package = make_package(tmp_path / 'package.zip', version='7.7')
    second = loop.upload_package(package)
    tenth = loop.upload_package(package, '1.9')
    loop.upload_package(package)
    assert [model['version'] for model in loop.models()] == ['1.0', '1.1', '1.9', '1.10']
    loop.set_target('1.1')
    assert loop.target() == {'model_uuid': second, 'version': '1.1'}
    loop.set_target(model_uuid=tenth)
    assert loop.http.get(f'{loop.api}/deployment/target').json() == {'model_uuid': tenth, 'version': '1.9'}
    content = loop.http.get(f'{loop.api}/models/{second}/{MODEL_FORMAT}/file').content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert json.loads(archive.read('model.json'))['version'] == '1.1'
        assert sorted(archive.namelist()) == ['det.onnx', 'model.json', 'pose.onnx']


def test_folders_in_a_zip_and_any_bytes_can_be_served(loop: MockLoopProcess, tmp_path: Path) -> None:
    """Nested zips and files that are not zips can be served, so that tests can offer them to a node."""
    nested = write_zip(tmp_path / 'nested.zip', {'a/b/model.json': b'{}', 'a/b/det.onnx': b'x'})
    model = loop.upload_package(nested)
    content = loop.http.get(f'{loop.api}/models/{model}/{MODEL_FORMAT}/file').content
    assert zipfile.ZipFile(io.BytesIO(content)).namelist() == ['a/b/model.json', 'a/b/det.onnx']
    html = tmp_path / 'page.html'
    html.write_bytes(b'<html>')
    model = loop.upload_package(html, rewrite=False)
    assert loop.http.get(f'{loop.api}/models/{model}/{MODEL_FORMAT}/file').content == b'<html>'
