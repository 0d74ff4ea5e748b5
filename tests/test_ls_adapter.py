"""The routes of the Label Studio backend, against real node processes."""

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from starlette.requests import Request

from benchmarks.support.cards import CARD, FIGURES, iou, make_card
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess, running_node, running_node_without_model
from benchmarks.support.studio import Studio, running_studio
from benchmarks.support.waiting import PATIENCE
from detector import ls_adapter
from detector.datasets.person import VISIBLE, Person
from detector.label_studio.labels.config import LabelingConfig, generate, parse
from detector.label_studio.labels.regions import from_results
from detector.models.store import ModelStore
from detector.pose import images
from mock.test_card.cards import Figure

SIZE = (720, 480)
CONFIGS = {
    'keypoints': generate('keypoints'),
    'skeleton': generate('skeleton'),
    'points only': generate('keypoints').replace('RectangleLabels', 'PolygonLabels'),
    'none': None,
}


@pytest.fixture(scope='module')
def studio() -> Iterator[Studio]:
    with running_studio() as server:
        yield server


@pytest.fixture(scope='module')
def backend(tmp_path_factory: pytest.TempPathFactory, studio: Studio) -> Iterator[NodeProcess]:
    """A node that serves the stand-in for Label Studio."""
    settings = {'DEADLINE': 60, 'PREDICT_SECONDS': 30, 'IMAGE_SECONDS': 2}
    with running_node(tmp_path_factory.mktemp('backend'), **settings, **studio.settings) as node:
        yield node


def post(node: NodeProcess, path: str, body: Any, **options: Any) -> httpx.Response:
    return httpx.post(node.url + path, json=body, timeout=60, **options)


def predict(node: NodeProcess, tasks: list[Any], style: str = 'keypoints', context: Any = None) -> list[Any]:
    """Return the results of a request in the form that Label Studio sends."""
    body = {'tasks': tasks, 'project': '1.17', 'params': {'login': None, 'password': None, 'context': context}}
    xml = CONFIGS[style]
    answer = post(node, '/predict', body if xml is None else body | {'label_config': xml})
    assert answer.status_code == 200, answer.text
    results = answer.json()['results']
    assert len(results) == len(tasks)
    return list(results)


def task(task_id: int, image: Any) -> dict[str, Any]:
    return {'id': task_id, 'data': {'image': image}, 'annotations': [], 'predictions': []}


def persons_in(prediction: Any, style: str = 'keypoints', size: tuple[int, int] = SIZE) -> list[Person]:
    return from_results(prediction['result'], parse(CONFIGS[style]), size)


def assert_drawn(
    persons: list[Person], figures: tuple[Figure, ...] = FIGURES, *, config: LabelingConfig | None = None
) -> None:
    """Check that each figure occurs once: its keypoints within 1 % of the image, its box where it was drawn."""
    config = parse(None) if config is None else config
    assert len(persons) == len(figures)
    for figure in figures:

        def distance(person: Person, figure: Figure = figure) -> float:
            return float(np.percentile(np.linalg.norm(person.keypoints - figure.keypoints, axis=1), 95))

        person = min(persons, key=distance)
        assert distance(person) < 0.01 * SIZE[1]
        assert (person.visibility == VISIBLE).all()
        if config.boxes is not None:
            assert person.box is not None
            assert iou(person.box, figure.box) > 0.9


def test_what_label_studio_asks_before_it_connects(backend: NodeProcess) -> None:
    """`health`, `setup` and `versions` answer objects, with the version that predictions carry."""
    for path in ('/', '/health'):
        assert httpx.get(backend.url + path).json() == {'status': 'UP'}
    setup = {'project': '1.17', 'schema': CONFIGS['keypoints'], 'hostname': 'http://x:80', 'access_token': 'secret'}
    assert post(backend, '/setup', setup | {'extra_params': None}).json() == {'model_version': 'test-card 0.0'}
    assert httpx.get(f'{backend.url}/versions').json() == {'versions': ['test-card 0.0']}
    assert 'Learning Loop' in post(backend, '/train', {}).json()['detail']
    assert 'Learning Loop' in post(backend, '/webhook', {'action': 'START_TRAINING'}).json()['detail']


@pytest.mark.parametrize('style', CONFIGS)
def test_tasks_get_the_poses_on_their_images(backend: NodeProcess, studio: Studio, style: str) -> None:
    """Predictions have the project's style, the version that `setup` answers, and the certainty as score."""
    (prediction,) = predict(backend, [task(1, studio.add_image('card.jpg', CARD))], style)
    assert_drawn(persons_in(prediction, style), config=parse(CONFIGS[style]))
    assert prediction['model_version'] == 'test-card 0.0'
    assert 0.6 < prediction['score'] <= 1


def test_bad_tasks_do_not_spoil_the_others(backend: NodeProcess, studio: Studio) -> None:
    """A bad task gets `[]` and a line in the log with its id and the reason; the other tasks keep their places."""
    good = studio.add_image('good.jpg', CARD)
    bad: list[tuple[Any, str]] = [
        (task(100, studio.add_image('text.jpg', b'hello')), 'these bytes are not an image'),
        (task(101, studio.add_image('page.jpg', b'<html><body>login</body></html>')), 'HTML page'),
        (task(102, '/data/upload/1/gone.jpg'), 'no such file'),
        (task(103, studio.add_image('slow.jpg', CARD, seconds=10)), 'IMAGE_SECONDS'),
        (task(104, 'file:///etc/passwd'), 'file:'),
        (task(105, '/data/upload/1/../../../etc/passwd'), '/etc/passwd'),
        (task(106, None), "no image in the field 'image'"),
        ({'id': 107, 'data': {'picture': 'x'}}, "no image in the field 'image'"),
        ({'id': 108}, "no 'data'"),
        ('task', "no 'data'"),
        (task(110, studio.add_image('cut.jpg', CARD[:2000])), 'broken'),
    ]
    tasks = [item for item, _ in bad]
    tasks[3:3] = [task(1, good)]
    tasks.append(task(2, good))
    results = predict(backend, tasks)
    for index in (3, len(tasks) - 1):
        assert_drawn(persons_in(results.pop(index if index == 3 else -1)))
    assert results == [[]] * len(bad)
    log = backend.log.read_text()
    for item, reason in bad:
        line = next(line for line in log.splitlines() if 'task' in line and reason in line)
        assert not isinstance(item, dict) or str(item['id']) in log, line
    assert not any('etc/passwd' in path for path in studio.asked)


def test_an_image_without_persons_gets_an_empty_prediction(backend: NodeProcess, studio: Studio) -> None:
    """An image without persons gets an empty prediction with score 1, so that Label Studio sorts it last."""
    empty = images.encode_jpeg(make_card(()))
    (prediction,) = predict(backend, [task(1, studio.add_image('empty.jpg', empty))])
    assert prediction == {'model_version': 'test-card 0.0', 'score': 1.0, 'result': []}


def test_the_same_image_is_fetched_once_per_request(backend: NodeProcess, studio: Studio) -> None:
    """An image that several tasks share is fetched once per request."""
    address = studio.add_image('shared.jpg', CARD)
    results = predict(backend, [task(number, address) for number in range(12)])
    for prediction in results:
        assert_drawn(persons_in(prediction))
    assert studio.asked.count(address) == 1
    ids = [region['id'] for prediction in results for region in prediction['result']]
    assert len(set(ids)) == len(ids)


def region(kind: str, value: dict[str, Any], *, origin: str = 'manual', **more: Any) -> dict[str, Any]:
    labels = {'rectanglelabels': ['person'], 'keypointlabels': ['nose']}[kind]
    return {'id': 'r', 'type': kind, 'origin': origin, 'value': value | {kind: labels}, **more}


def percent_box(figure: Figure, margin: float = 5) -> dict[str, float]:
    x1, y1, x2, y2 = (figure.box + np.array([-margin, -margin, margin, margin])) / np.array([7.2, 4.8, 7.2, 4.8])
    return {'x': x1, 'y': y1, 'width': x2 - x1, 'height': y2 - y1, 'rotation': 0}


@pytest.mark.parametrize('style', ['keypoints', 'skeleton', 'points only'])
@pytest.mark.parametrize('figure', FIGURES)
def test_a_drawn_box_gets_that_persons_points(backend: NodeProcess, studio: Studio, style: str, figure: Figure) -> None:
    """The prompt is the last region that the annotator drew, whatever predictions surround it."""
    other = FIGURES[0] if figure is FIGURES[1] else FIGURES[1]
    predicted = region('rectanglelabels', percent_box(other), origin='prediction')
    drawn = region('rectanglelabels', percent_box(figure))
    address = studio.add_image('card.jpg', CARD)
    context = {'result': [region('rectanglelabels', percent_box(other)), drawn, predicted]}
    (prediction,) = predict(backend, [task(1, address)], style, context)
    assert_drawn(persons_in(prediction, style), (figure,), config=parse(CONFIGS[style]))


def test_a_click_gets_the_nearest_person(backend: NodeProcess, studio: Studio) -> None:
    """A click gets all points of the nearest person, and an Alt-click gets none."""
    address = studio.add_image('card.jpg', CARD)
    for figure in FIGURES:
        x, y = figure.keypoints[9] / (7.2, 4.8)
        (prediction,) = predict(
            backend, [task(1, address)], context={'result': [region('keypointlabels', {'x': x, 'y': y, 'width': 0.5})]}
        )
        assert_drawn(persons_in(prediction), (figure,))
    negative = region('keypointlabels', {'x': x, 'y': y, 'width': 0.5}, is_positive=False)
    assert predict(backend, [task(1, address)], context={'result': [negative]}) == [{'result': []}]


@pytest.mark.parametrize(
    'context',
    [
        {},
        {'result': []},
        {'result': None},
        {'result': 'x'},
        {'result': [None, 5]},
        {'result': [{'origin': 'manual'}]},
        {'result': [region('rectanglelabels', {'x': 10, 'y': 10, 'width': 0, 'height': 0})]},
        {'result': [region('rectanglelabels', {'x': 110, 'y': 10, 'width': 20, 'height': 20})]},
        {'result': [region('rectanglelabels', {'x': -50, 'y': -50, 'width': 20, 'height': 20})]},
        {'result': [region('rectanglelabels', {'x': 'a', 'y': 1, 'width': 20, 'height': 20})]},
        {'result': [region('rectanglelabels', {'x': 1, 'y': 1, 'width': -20, 'height': 20})]},
        {'result': [region('keypointlabels', {'x': 1})]},
        {
            'result': [
                {'origin': 'manual', 'value': {'x': 1, 'y': 1, 'width': 9, 'height': 9, 'rectanglelabels': ['car']}}
            ]
        },
    ],
)
def test_an_invalid_prompt_finds_no_person(backend: NodeProcess, studio: Studio, context: Any) -> None:
    """A prompt without result or size, outside the image or with another label finds no person."""
    address = studio.add_image('card.jpg', CARD)
    assert predict(backend, [task(1, address)], context=context) == [{'result': []}]


@pytest.mark.parametrize(
    ('path', 'body', 'message'),
    [
        ('/predict', b'hello', 'not a JSON object'),
        ('/predict', b'[1]', 'not a JSON object'),
        ('/predict', b'', 'not a JSON object'),
        ('/predict', b'[' * 100_000, 'not a JSON object'),
        ('/predict', b'{}', "'tasks' must be a list"),
        ('/predict', b'{"tasks": {}}', "'tasks' must be a list"),
        ('/predict', b'{"tasks": [], "label_config": 5}', "'label_config' must be a string"),
        ('/predict', b'{"tasks": [], "label_config": "<View"}', 'is not XML'),
        ('/predict', b'{"tasks": [], "label_config": "<View/>"}', 'no RectangleLabels'),
        ('/predict', b'{"tasks": [], "params": {"context": {"result": []}}}', 'a context belongs to one task'),
        ('/setup', b'x', 'not a JSON object'),
        ('/validate', b'{}', "'config' must be a string"),
        ('/validate', b'{"config": "<View/>"}', 'no RectangleLabels'),
        ('/webhook', b'null', 'not a JSON object'),
        ('/train', b'"x"', 'not a JSON object'),
    ],
)
def test_bad_requests_are_explained(backend: NodeProcess, path: str, body: bytes, message: str) -> None:
    """A bad request gets 422 with a JSON detail that says what is wrong."""
    answer = httpx.post(backend.url + path, content=body, timeout=30)
    assert answer.status_code == 422
    assert message in answer.json()['detail']


def test_an_interactive_request_says_what_is_wrong_with_the_image(backend: NodeProcess, studio: Studio) -> None:
    """An interactive request gets the fault of its image, since Label Studio does not repeat the request."""
    context = {'result': [region('rectanglelabels', percent_box(FIGURES[0]))]}
    body = {'tasks': [task(1, '/data/upload/1/gone.jpg')], 'params': {'context': context}}
    answer = post(backend, '/predict', body)
    assert answer.status_code == 422
    assert 'no such file' in answer.json()['detail']


def test_no_tasks_are_no_predictions(backend: NodeProcess) -> None:
    """A request without tasks, here also without `params`, gets no predictions."""
    assert post(backend, '/predict', {'tasks': []}).json() == {'results': []}


def test_a_config_is_validated(backend: NodeProcess) -> None:
    """A valid config gets an answer that lists what the config offers."""
    answer = post(backend, '/validate', {'config': CONFIGS['skeleton']}).json()
    kinds = {'status': 'OK', 'image': 'image', 'boxes': True, 'skeletons': ['pose'], 'keypoints': 0}
    assert {key: answer[key] for key in kinds} == kinds
    assert (answer['labels'], answer['unmatched']) == ({}, [])
    assert answer['report'][1] == 'skeletons: pose (133 keypoints)'


def test_what_a_project_offers_is_logged_once(backend: NodeProcess) -> None:
    """`/setup` logs which labels of a project stand for nothing, once for each labeling config."""
    labels = ''.join(f'<Label value="{name}"/>' for name in ('Left Eye', 'REye', 'neck'))
    schema = (
        '<View><Image name="image" value="$image"/>'
        f'<KeyPointLabels name="kp" toName="image">{labels}</KeyPointLabels></View>'
    )
    line = 'project 17.5: boxes: none; 2 labels for keypoints: Left Eye = left_eye, REye = right_eye; 1 label stands'
    for _ in range(3):
        assert post(backend, '/setup', {'project': '17.5', 'schema': schema}).status_code == 200
    assert backend.log.read_text().count(line) == 1
    post(backend, '/setup', {'project': '17.5', 'schema': schema.replace('REye', 'L.Ear')})
    post(backend, '/setup', {'project': '18.5', 'schema': '<View/>'})
    log = backend.log.read_text()
    assert 'project 17.5: boxes: none; 2 labels for keypoints: Left Eye = left_eye, L.Ear = left_ear' in log
    assert 'project 18.5: the labeling config has no RectangleLabels' in log


def test_when_the_time_is_spent_a_repeated_request_continues(tmp_path: Path, studio: Studio) -> None:
    """A request whose time is over answers `[]` for the rest, and a repeated request gets all results."""
    quick = studio.add_image('quick.jpg', CARD)
    slow = [studio.add_image(f'slow-{number}.jpg', CARD, seconds=8) for number in range(4)]
    tasks = [task(1, quick), *(task(2 + number, address) for number, address in enumerate(slow)), task(9, quick)]
    with running_node(tmp_path, PREDICT_SECONDS=2, IMAGE_SECONDS=30, **studio.settings) as node:
        results = predict(node, tasks)
        assert_drawn(persons_in(results[0]))
        assert_drawn(persons_in(results[5]))
        assert results[1:5] == [[]] * 4
        assert 'Label Studio has to request the rest again' in node.log.read_text()
        for address in slow:
            studio.seconds[address] = 0
        for prediction in predict(node, tasks[1:5]):
            assert_drawn(persons_in(prediction))
        many = predict(node, [task(number, quick) for number in range(5000)])
        done = [prediction for prediction in many if prediction != []]
        assert 0 < len(done) < 5000
        assert many[0] != []
        assert_drawn(persons_in(done[-1]))


def test_with_a_password_all_routes_ask_for_it(tmp_path: Path) -> None:
    """With a password all routes except the container's probe require it, and the log explains a refused webhook."""
    with running_node(tmp_path, BASIC_AUTH_USER='ann', BASIC_AUTH_PASS='p:ä') as node:
        routes = [('GET', '/'), ('GET', '/health'), ('GET', '/versions')]
        routes += [('POST', path) for path in ('/setup', '/predict', '/validate', '/train', '/webhook')]
        for method, path in routes:
            others = [('bob', 'p:ä'), ('', '')] if path == '/predict' else []  # each wrong password has to wait
            for auth in (None, ('ann', 'wrong'), *others):
                answer = httpx.request(method, node.url + path, auth=auth)
                assert answer.status_code == 401, path
                assert answer.headers['WWW-Authenticate'].startswith('Basic')
                assert 'BASIC_AUTH_USER' in answer.json()['detail']
            assert httpx.request(method, node.url + path, auth=('ann', 'p:ä')).status_code in (200, 422)
            latin = {'Authorization': 'Basic ' + base64.b64encode('ann:p:ä'.encode('latin-1')).decode()}
            assert httpx.request(method, node.url + path, headers=latin).status_code in (200, 422)
        assert httpx.get(f'{node.url}/ready').status_code == 200
        assert 'PATCH /api/webhooks/ID' in node.log.read_text()
        assert 'p:ä' not in node.log.read_text()


def test_without_a_model_predictions_wait_but_label_studio_connects(tmp_path: Path) -> None:
    """`setup` answers no version and `predict` 503, so tasks open without predictions."""
    package = ModelStore(tmp_path / 'data').add(make_package(tmp_path / 'p.zip'))
    package.estimator_path.write_bytes(b'damaged')
    with running_node_without_model(tmp_path) as node:
        assert post(node, '/setup', {}).json() == {'model_version': None}
        answer = post(node, '/predict', {'tasks': [task(1, 'http://x/y.jpg')]})
        assert answer.status_code == 503
        assert 'detail' in answer.json()


async def test_large_bodies_are_parsed_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large bodies are parsed one at a time, and small bodies do not wait for them."""
    lock = threading.Lock()
    overlaps: list[bool] = []
    begun, go = threading.Event(), threading.Event()

    def slow(received: bytes) -> Any:
        if len(received) > 1000:
            overlaps.append(not lock.acquire(blocking=False))
            begun.set()
            go.wait(PATIENCE)
            if not overlaps[-1]:
                lock.release()
        return json.loads(received)

    def request(padding: int) -> Request:
        body = json.dumps({'padding': padding * 'x'}).encode()

        async def receive() -> dict[str, Any]:
            return {'type': 'http.request', 'body': body, 'more_body': False}

        return Request({'type': 'http', 'method': 'POST', 'headers': []}, receive)

    async def parsed(padding: int) -> None:
        async with asynccontextmanager(ls_adapter._body)(request(padding)) as body:
            assert len(body['padding']) == padding

    monkeypatch.setattr(ls_adapter, 'json_bodies', SimpleNamespace(parse_object=slow))
    large = [asyncio.create_task(parsed(5 * 1024**2)) for _ in range(4)]
    await asyncio.to_thread(begun.wait, PATIENCE)
    await parsed(10)
    assert not any(task.done() for task in large)
    go.set()
    await asyncio.gather(*large)
    assert overlaps == 4 * [False]
