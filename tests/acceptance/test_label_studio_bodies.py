"""Recorded requests of Label Studio. The tests need WHOLEBODY_LABEL_STUDIO_BODIES, the path of a folder with them.

Each file contains `{method, path, headers, body}`, as a recording backend writes it. Other files are ignored.
"""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.processes import NodeProcess, running_node
from detector.label_studio.labels.config import parse

FOLDER = os.environ.get('WHOLEBODY_LABEL_STUDIO_BODIES')
pytestmark = pytest.mark.skipif(FOLDER is None, reason='WHOLEBODY_LABEL_STUDIO_BODIES names no folder of requests')


def recorded() -> list[Path]:
    paths = sorted(Path(FOLDER).glob('*.json')) if FOLDER is not None else []
    return [path for path in paths if _is_request(json.loads(path.read_bytes()))]


def _is_request(content: Any) -> bool:
    return isinstance(content, dict) and {'method', 'path', 'body'} <= set(content)


@pytest.fixture(scope='module')
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with running_node(tmp_path_factory.mktemp('bodies'), LABEL_STUDIO_URL='http://127.0.0.1:9') as node:
        yield node


@pytest.mark.parametrize('path', recorded(), ids=lambda path: path.stem)
def test_every_request_gets_a_valid_answer(backend: NodeProcess, path: Path) -> None:
    """Each request gets an answer in the form of its route, although its images are no longer available."""
    request = json.loads(path.read_bytes())
    answer = httpx.request(request['method'], backend.url + request['path'], json=request['body'], timeout=100)
    content = answer.json()
    if request['path'] == '/predict' and request['body']['params']['context']:
        assert answer.status_code == 422
        assert 'LABEL_STUDIO' in content['detail']
        return
    assert answer.status_code == 200, content
    match request['path']:
        case '/health':
            assert content['status'] == 'UP'
        case '/setup':
            assert content == {'model_version': 'test-card 0.0'}
        case '/versions':
            assert content == {'versions': ['test-card 0.0']}
        case '/predict':
            assert content == {'results': [[] for _ in request['body']['tasks']]}
            assert len(parse(request['body']['label_config']).points.written) == 133  # type: ignore[union-attr]
        case '/webhook':
            assert content['status'] == 'OK'
        case other:
            raise AssertionError(other)
