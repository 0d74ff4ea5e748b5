"""JSON bodies are bounded by the number of their values, and unused parts of large ones are skipped."""

import json
import tracemalloc
from typing import Any

import pytest

from detector.api import json_bodies
from detector.api.json_bodies import MAX_VALUES, has_few_values, parse_object
from detector.errors import InvalidRequest, RequestTooLarge

LIMIT = MAX_VALUES // 10
REGION = {'id': 'p0-1', 'type': 'keypointlabels', 'value': {'x': 1.5, 'y': 2, 'keypointlabels': ['nose'], 'text': '[{'}}
PREDICTION = {'id': 7, 'score': 0.5, 'result': [REGION] * 133}
TASK = {'id': 1, 'data': {'image': 'http://studio/a.jpg', 'predictions': 'kept'}, 'meta': [None, True, 'ü\n"']}
LARGE_TASK = TASK | {'predictions': [PREDICTION] * 3, 'annotations': [PREDICTION], 'drafts': [PREDICTION]}
SKIPPED: dict[str, Any] = {'predictions': None, 'annotations': None, 'drafts': None}


def peak_mib(body: bytes) -> float:
    """Return the largest memory that parsing takes besides the body, whatever its outcome."""
    tracemalloc.start()
    try:
        parse_object(body)
    except RequestTooLarge:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1] / 1024**2
        tracemalloc.stop()
    return peak


@pytest.fixture(autouse=True)
def low_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the limit, since measuring memory is slow."""
    monkeypatch.setattr(json_bodies, 'MAX_VALUES', LIMIT)


@pytest.mark.parametrize('unit', ['{}', '[]', '1', '"a"', '{"a":1}', '[[],{}]'])
def test_many_values_are_refused(unit: str) -> None:
    """A body of nothing but small values is refused, and takes less memory than the limit permits."""
    count = 2 * LIMIT // (unit.count('{') + unit.count('[') + 1)
    body = ('{"x":[' + ','.join([unit] * count) + ']}').encode()
    with pytest.raises(RequestTooLarge, match='100000 values'):
        parse_object(body)
    assert peak_mib(body) < 25


def test_a_deep_body_is_refused() -> None:
    """A body that is nested deeper than the parser reaches is refused, whatever its size."""
    for depth in (90_000, 2 * LIMIT):
        with pytest.raises((InvalidRequest, RequestTooLarge)):
            parse_object(b'{"x":' + b'[' * depth + b']' * depth + b'}')


def test_old_predictions_of_many_tasks_are_skipped() -> None:
    """Hundreds of tasks with predictions and annotations are read without them, in the memory of the tasks alone."""
    tasks = 50
    body = json.dumps({'tasks': [LARGE_TASK] * tasks, 'project': '1.1', 'params': {'context': None}}).encode()
    assert not has_few_values(body, LIMIT)
    assert parse_object(body) == {
        'tasks': [TASK | SKIPPED] * tasks,
        'project': '1.1',
        'params': {'context': None},
    }
    assert peak_mib(body) < 2


def test_a_webhook_about_a_crowd_is_read() -> None:
    """Ids of an annotation survive although its regions are beyond the limit."""
    crowd = {'id': 9, 'task': 4, 'result': [REGION] * 10_000, 'prediction': PREDICTION}
    body = {'action': 'ANNOTATION_CREATED', 'annotation': crowd, 'project': {'id': 3}}
    found = parse_object(json.dumps(body).encode())
    assert found['annotation'] == {'id': 9, 'task': 4, 'result': None, 'prediction': None}
    assert found['project'] == {'id': 3}


def test_a_large_string_is_one_value() -> None:
    """Images within a body as base64 do not count by their size."""
    image = 'data:image/jpeg;base64,' + 'a{[,:' * LIMIT
    body = {'tasks': [{'id': 1, 'data': {'image': image}}]}
    assert parse_object(json.dumps(body).encode()) == body


@pytest.mark.parametrize('text', ['', 'x', '[1]', '{"a":', '{"a":1}x'])
def test_what_is_no_object_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both parsers refuse what is not a JSON object."""
    for limit in (LIMIT, -1):
        monkeypatch.setattr(json_bodies, 'MAX_VALUES', limit)
        with pytest.raises((InvalidRequest, RequestTooLarge)):
            parse_object(text.encode())


def test_values_are_counted_across_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """The count does not depend on where a slice ends, for bytes and for text."""
    monkeypatch.setattr(json_bodies, '_COUNTED', 3)
    text = '{"a": [1, 2, {"b": 3}]}'
    assert has_few_values(text, 7)
    assert not has_few_values(text, 6)
    assert not has_few_values(text.encode(), 6)
