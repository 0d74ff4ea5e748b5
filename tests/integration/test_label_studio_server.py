"""The environment of other tests: a real Label Studio, a client, and a browser that works in its editor."""

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import httpx
import numpy as np
import pytest
from PIL import Image

from benchmarks.support.cards import FIGURES, make_card
from benchmarks.support.label_studio_api import Json, LabelStudio, Refused
from benchmarks.support.label_studio_server import running_label_studio
from detector.datasets.person import Person
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import to_results
from detector.pose.skeleton import KEYPOINT_COUNT, LIMB_PARENTS
from mock.test_card.cards import Figure
from tests.support.integration.browser import Browser, Editor, Point
from tests.support.integration.recording_backend import recording_backend

pytestmark = pytest.mark.integration

SIZE = (720, 480)
STYLES: tuple[Style, ...] = ('keypoints', 'skeleton')
VERSION = 'stub-v1'


def card(figures: Sequence[Figure] = FIGURES) -> bytes:
    """Make a card as JPEG; without figures it is plain grey."""
    return cv2.imencode('.jpg', make_card(figures)[..., ::-1])[1].tobytes()


def prediction(style: Style, figures: Sequence[Figure] = FIGURES) -> Json:
    """Make a prediction of all keypoints of the figures."""
    persons = [
        Person(
            box=figure.box,
            box_score=0.9,
            keypoints=figure.keypoints,
            visibility=np.full(KEYPOINT_COUNT, 2, dtype=np.int8),
            scores=np.full(KEYPOINT_COUNT, 0.8, dtype=np.float32),
        )
        for figure in figures
    ]
    return {'model_version': VERSION, 'score': 0.5, 'result': to_results(persons, parse(generate(style)), SIZE)}


def percent(x: float, y: float) -> Point:
    """Convert pixels of the image to percent."""
    return 100 * float(x) / SIZE[0], 100 * float(y) / SIZE[1]


def points_of(result: Sequence[Json]) -> dict[tuple[str, str], Point]:
    """Return the coordinates of keypoints, vertices and upper left box corners by region id and vertex."""
    return {
        (region['id'], place.get('id', '')): (place['x'], place['y'])
        for region in result
        for place in region['value'].get('vertices', [region['value']])
    }


def test_either_token_opens_the_server(label_studio: LabelStudio) -> None:
    """A legacy token works until legacy tokens are switched off, a personal one by an access token, and the client with
    both."""
    assert label_studio.request('GET', '/api/version')['release'] == '1.23.2'
    me = f'{label_studio.url}/api/current-user/whoami'
    legacy = {'Authorization': f'Token {label_studio.token}'}
    try:
        assert httpx.get(me, headers=legacy).json()['email'] == label_studio.email
        label_studio.legacy_tokens(False)
        assert httpx.get(me, headers=legacy).status_code == 401
        assert label_studio.request('GET', '/api/current-user/whoami')['email'] == label_studio.email
    finally:
        label_studio.legacy_tokens(True)
    refreshed = httpx.post(f'{label_studio.url}/api/token/refresh/', json={'refresh': label_studio.personal_token()})
    assert httpx.get(me, headers={'Authorization': f'Bearer {refreshed.json()["access"]}'}).status_code == 200


def test_images_of_tasks_can_be_fetched(label_studio: LabelStudio) -> None:
    """Uploaded images and local files are served with a token only, and a task may name any other address."""
    project = label_studio.create_project(generate('keypoints'))
    content = card()
    folder = label_studio.files / 'pictures'
    folder.mkdir()
    (folder / 'local.jpg').write_bytes(content)
    uploaded = project.upload([('a.jpg', content), ('b.jpg', content)])
    imported = project.import_tasks([{'image': 'http://elsewhere.example/c.jpg'}])
    project.add_local_files(folder)
    tasks = project.tasks()
    assert [task['id'] for task in tasks][:3] == uploaded + imported
    images = [task['data']['image'] for task in tasks]
    assert images[2:] == [
        'http://elsewhere.example/c.jpg',
        f'{label_studio.url}/data/local-files/?d=pictures/local.jpg',
    ]
    for address in (images[0], images[1], images[3]):
        url = httpx.URL(label_studio.url).join(address)
        assert httpx.get(url).status_code == 401
        assert httpx.get(url, headers={'Authorization': f'Token {label_studio.token}'}).content == content


def test_a_backend_is_asked_and_told(label_studio: LabelStudio) -> None:
    """Label Studio sends setup, bulk and interactive requests with basic auth, and webhooks with their headers."""
    project = label_studio.create_project(generate('keypoints'))
    first, second, third = project.upload([(f'{name}.jpg', card()) for name in 'abc'])
    with recording_backend(lambda body: [prediction('keypoints') for _ in body['tasks']], VERSION) as backend:
        backend_id = project.connect(backend.url, basic_auth=('label', 'studio'), title=VERSION)
        state = project.backend(backend_id)
        assert (state['state'], state['model_version']) == ('CO', VERSION)
        assert project.settings()['model_version'] == VERSION

        project.retrieve_predictions([first, second])
        (request,) = backend.of('/predict')
        assert [task['id'] for task in request.body['tasks']] == [first, second]
        assert request.headers['Authorization'].startswith('Basic ')
        assert [len(found['result']) for found in project.predictions()] == [268, 268]
        assert project.import_predictions([prediction('keypoints') | {'task': third}]) == 1

        answer = project.interactive(backend_id, first, {'result': []})
        assert len(answer['data']['result']) == 268
        assert backend.of('/predict')[-1].body['params']['context'] == {'result': []}

        project.set_webhook_headers({'Authorization': 'Basic c29tZQ=='})
        backend.requests.clear()
        project.annotate(first, [], was_cancelled=True)
        project.accept_predictions([second])
        created, accepted = backend.wait_for('/webhook', 2)
        assert (created.body['action'], accepted.body['action']) == ('ANNOTATION_CREATED', 'ANNOTATIONS_CREATED')
        assert created.headers['Authorization'] == 'Basic c29tZQ=='
        project.train(backend_id)
        assert backend.wait_for('/webhook', 3)[-1].body['action'] == 'START_TRAINING'
    exported = json.loads(project.export())
    assert [len(task['annotations']) for task in exported] == [1, 1, 0]
    assert project.export('COCO').startswith(b'PK')


def test_a_strict_server_refuses_what_does_not_fit(label_studio: LabelStudio, strict_label_studio: LabelStudio) -> None:
    """A strict server refuses a prediction with an unknown label, and another one stores it."""
    wrong = prediction('keypoints')
    wrong['result'][-1]['value']['rectanglelabels'] = ['dog']
    with recording_backend(lambda body: [wrong for _ in body['tasks']], VERSION) as backend:
        lax, strict = (server.create_project(generate('keypoints')) for server in (label_studio, strict_label_studio))
        for project in (lax, strict):
            project.connect(backend.url, title=VERSION)
        lax.retrieve_predictions(lax.upload([('a.jpg', card())]))
        assert len(lax.predictions()) == 1
        with pytest.raises(Refused, match='400.*valid labels'):
            strict.retrieve_predictions(strict.upload([('a.jpg', card())]))
        assert strict.predictions() == []


def test_label_studio_as_it_comes_refuses_backends_nearby(tmp_path: Path) -> None:
    """Label Studio with its default settings refuses backends at loopback addresses and sends nothing there."""
    unset = {'ML_BLOCK_LOCAL_IP': None, 'SSRF_PROTECTION_ENABLED': None}
    with running_label_studio(tmp_path / 'server', **unset) as server, recording_backend() as backend:
        project = server.create_project(generate('keypoints'))
        with pytest.raises(Refused, match='403.*reserved network address'):
            project.connect(backend.url)
        assert not backend.requests


@pytest.mark.parametrize('style', STYLES)
def test_predictions_are_drawn(label_studio: LabelStudio, browser: Browser, style: Style) -> None:
    """The box, the keypoints and the limbs of a prediction are drawn in place."""
    project = label_studio.create_project(generate(style), title=f'drawn {style}')
    (task,) = project.upload([('plain.jpg', card([]))])
    predicted = prediction(style, FIGURES[:1])
    assert project.import_predictions([predicted | {'task': task}]) == 1
    editor = browser.open(project, task, regions=len(predicted['result']))
    editor.fit()
    drawn = editor.drawn()
    for region in predicted['result']:
        value = region['value']
        expected = [(vertex['x'], vertex['y']) for vertex in value.get('vertices', [value])]
        assert len(drawn[region['id']]) == (4 if 'height' in value else len(expected))
        np.testing.assert_allclose(drawn[region['id']][: len(expected)], expected, atol=0.01)
    assert list(editor.limbs().values()) == ([132] if style == 'skeleton' else [])
    assert shown(editor, f'predictions-{style}', limbs=style == 'skeleton') > 0.95
    assert browser.errors == []


def shown(editor: Editor, name: str, *, limbs: bool) -> float:
    """Return the share of keypoints (and limb centres) at which a screenshot differs from the box's empty part."""
    picture = np.asarray(Image.open(editor.screenshot(name)).convert('RGB'), dtype=int)

    def colour(x: float, y: float) -> np.ndarray[tuple[int, ...], np.dtype[np.int_]]:
        column, row = editor.on_page(percent(x, y))
        return np.asarray(picture[round(row), round(column)])

    figure = FIGURES[0]
    empty = colour(*(figure.box[:2] + np.array([75, 191]) * figure.scale))
    places = list(figure.keypoints)
    if limbs:
        edges = [(child, parent) for child, parent in enumerate(LIMB_PARENTS) if parent is not None]
        places += [figure.keypoints[list(edge)].mean(axis=0) for edge in edges]
    return float(np.mean([np.abs(colour(*place) - empty).max() > 30 for place in places]))


@pytest.mark.parametrize('style', STYLES)
def test_a_dragged_point_is_submitted(label_studio: LabelStudio, browser: Browser, style: Style) -> None:
    """A dragged point and a drawn box are submitted, and everything else stays in place."""
    project = label_studio.create_project(generate(style), title=f'dragged {style}')
    (task,) = project.upload([('card.jpg', card())])
    predicted = prediction(style, FIGURES[:1])
    project.import_predictions([predicted | {'task': task}])
    expected = points_of(predicted['result'])
    nose, start = next(iter(expected.items()))
    expected[nose] = start[0] + 4, start[1] + 3
    editor = browser.open(project, task, regions=len(predicted['result']))
    editor.fit()
    assert editor.region_at(start) == nose[0]
    editor.drag(start, expected[nose])
    editor.draw_rectangle('person', percent(*FIGURES[1].box[:2]), percent(*FIGURES[1].box[2:]))
    editor.screenshot(f'dragged-{style}')
    submitted = editor.submit()
    assert browser.errors == []
    (annotation,) = project.annotations(task)
    assert annotation['id'] == submitted['id']
    found = points_of(annotation['result'])
    np.testing.assert_allclose(found[nose], expected[nose], atol=0.2)
    del found[nose], expected[nose]
    (drawn,) = found.keys() - expected.keys()
    np.testing.assert_allclose(found.pop(drawn), percent(*FIGURES[1].box[:2]), atol=0.2)
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), atol=1e-3)


def test_a_smart_rectangle_asks_the_backend(label_studio: LabelStudio, browser: Browser) -> None:
    """A smart rectangle comes last in the backend's context, and the answer can be rejected or accepted and
    submitted."""
    project = label_studio.create_project(generate('skeleton'), title='smart')
    (task,) = project.upload([('card.jpg', card())])
    x1, y1, x2, y2 = FIGURES[1].box
    start, end = percent(x1 - 10, y1 - 10), percent(x2 + 10, y2 + 10)
    suggested: list[set[str]] = []

    def predict(body: Json) -> list[Json]:
        if not body['params']['context']:
            return [{}]
        answer = prediction('skeleton', FIGURES[1:])  # with new ids
        suggested.append({region['id'] for region in answer['result']})
        return [answer]

    with recording_backend(predict, VERSION) as backend:
        project.connect(backend.url, title=VERSION)
        editor = browser.open(project, task, regions=0)
        editor.fit()
        editor.turn_auto_annotation_on()
        editor.draw_rectangle('person', start, end, smart=True)
        prompt = backend.of('/predict')[-1].body['params']['context']['result'][-1]
        assert (prompt['from_name'], prompt['origin']) == ('bbox', 'manual')
        value = prompt['value']
        drawn = value['x'], value['y'], value['x'] + value['width'], value['y'] + value['height']
        np.testing.assert_allclose(drawn, [*start, *end], atol=0.3)
        assert {region['id'] for region in editor.suggestions()} == suggested[0]
        editor.reject_suggestions()
        assert editor.suggestions() == editor.result() == []
        editor.draw_rectangle('person', start, end, smart=True)
        editor.screenshot('suggested')
        editor.accept_suggestions()
        editor.screenshot('accepted')
        assert {region['id'] for region in editor.result()} == suggested[1]
        editor.submit()
        assert browser.errors == []
        (created,) = [hook for hook in backend.wait_for('/webhook') if hook.body['action'] == 'ANNOTATION_CREATED']
    assert {region['id'] for region in created.body['annotation']['result']} == suggested[1]
