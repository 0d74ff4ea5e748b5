"""Content of a new mock Loop."""

import json
from pathlib import Path

from benchmarks.support.loops import MockLoopProcess
from detector.models import package as model_package
from detector.models.package import MODEL_FORMAT


def test_a_new_mock_offers_the_test_card_model(loop: MockLoopProcess, tmp_path: Path) -> None:
    """Version 1.0 is the target, and its zip is a valid package with the Loop's identity."""
    target = loop.http.get(f'{loop.api}/deployment/target').json()
    model = loop.http.get(f'{loop.api}/models').json()['models'][0]
    assert target == {'model_uuid': model['id'], 'version': '1.0'}
    assert model['formats'] == [MODEL_FORMAT]
    answer = loop.http.get(f'{loop.api}/models/{model["id"]}/{MODEL_FORMAT}/file')
    assert answer.headers['content-type'] == 'application/zip'
    assert 'filename="' in answer.headers['content-disposition']
    archive = tmp_path / 'package.zip'
    archive.write_bytes(answer.content)
    assert model_package.file_sha256(archive) == answer.headers['etag'].strip('"')
    (tmp_path / 'package').mkdir()
    assert model_package.unpack_package(archive, tmp_path / 'package').version == '1.0'
    description = json.loads((tmp_path / 'package' / 'model.json').read_bytes())
    assert (description['id'], description['organization'], description['project']) == (
        model['id'],
        'zauberzeug',
        'wholebody',
    )
