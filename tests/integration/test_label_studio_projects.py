"""A node keeps the projects of a real Label Studio up to date: missed annotations and the model version."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.cards import CARD, FIGURES
from benchmarks.support.label_studio_api import Json, LabelStudio, Project
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.packages import make_package
from benchmarks.support.processes import NodeProcess, free_port, running_node
from benchmarks.support.waiting import eventually
from detector.datasets.person import VISIBLE, Person
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import to_results

pytestmark = pytest.mark.integration

SIZE = (720, 480)
LOGIN = ('ann', 'secret word')
AUTH = {'BASIC_AUTH_USER': LOGIN[0], 'BASIC_AUTH_PASS': LOGIN[1]}
SECONDS = 60.0


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path / 'loop') as server:
        yield server


@contextmanager
def node_of(folder: Path, studio: LabelStudio, port: int, **settings: Any) -> Iterator[NodeProcess]:
    """Start a node that asks Label Studio every two seconds."""
    own = {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.personal_token(), 'BACKEND_PORT': port}
    with running_node(folder, UPLOAD_SECONDS=0.1, **own | {'CATCH_UP_SECONDS': 2} | settings) as node:
        yield node


def drawn() -> list[Json]:
    """Return the regions of the persons on the card."""
    persons = [Person.empty() for _ in FIGURES]
    for person, figure in zip(persons, FIGURES, strict=True):
        person.keypoints[:], person.visibility[:] = figure.keypoints, VISIBLE
    return to_results(persons, parse(generate('keypoints')), SIZE)


def labels_of(node: NodeProcess) -> Json:
    found: Json = httpx.get(f'{node.url}/about', auth=LOGIN, timeout=20).json()['label_studio']
    return found


def knows(node: NodeProcess, project: Project) -> None:
    """Wait until the node has stored the project and where to begin."""

    def is_stored() -> bool:
        path = node.data_folder / 'label_studio' / 'projects.json'
        stored = json.loads(path.read_text())['projects'] if path.exists() else {}
        return bool(stored.get(str(project.id), {}).get('since'))

    eventually(is_stored, 'the node knows the project', SECONDS)


def received(loop: MockLoopProcess, count: int) -> list[str]:
    """Wait until the Loop has received images; return their sources after a while in which more could arrive."""
    eventually(lambda: len(loop.images()) >= count, f'{count} images arrive', SECONDS)
    time.sleep(5)
    return sorted(image['source'] for image in loop.images())


def sources(annotations: list[Json]) -> list[str]:
    return sorted(f'Label Studio, annotation {annotation["id"]}' for annotation in annotations)


def test_annotations_of_an_outage_reach_the_loop(
    label_studio: LabelStudio, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """Five annotations that are submitted while the node is down reach the Loop once after its start, with all
    persons; those from before the connection, and skipped ones, do not."""
    port = free_port()
    project = label_studio.create_project(generate('keypoints'), title='outage')
    old, *tasks = project.upload([(f'{number}.jpg', CARD) for number in range(8)])
    project.annotate(old, drawn())
    with node_of(tmp_path, label_studio, port, **loop.settings) as node:
        project.connect(node.url, title='test-card 1.0')
        knows(node, project)
    submitted = [project.annotate(task, drawn()) for task in tasks[:5]]
    project.annotate(tasks[5], [], was_cancelled=True)
    with node_of(tmp_path, label_studio, port, **loop.settings) as node:
        assert received(loop, 5) == sources(submitted)
        assert {(image['boxes'], image['points']) for image in loop.images()} == {(2, 266)}
        about = labels_of(node)
        assert about['corrections'] == {'waiting': 0, 'sent': 5, 'given_up': 0, 'missed': 5}
        assert about['projects'] == {'known': 1, 'error': None}
        later = project.annotate(tasks[6], drawn())
        assert received(loop, 6) == sources([*submitted, later])
    with node_of(tmp_path, label_studio, port, **loop.settings):
        assert received(loop, 6) == sources([*submitted, later])


def test_what_cannot_be_read_is_not_sent_as_nobody(
    label_studio: LabelStudio, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """An annotation with regions of a control that the config lacks is given up once, and an empty one is sent as an
    image without persons; `CORRECTIONS_SINCE` brings annotations from before the connection."""
    project = label_studio.create_project(generate('keypoints'), title='unread')
    strange, empty = project.upload([(f'{number}.jpg', CARD) for number in range(2)])
    project.annotate(strange, [region | {'from_name': 'mine'} for region in drawn()])
    nobody = project.annotate(empty, [])
    settings = loop.settings | {'CORRECTIONS_SINCE': '2020-01-01'}
    with node_of(tmp_path, label_studio, free_port(), **settings) as node:
        project.connect(node.url, title='test-card 1.0')
        assert received(loop, 1) == sources([nobody])
        assert loop.images()[0]['boxes'] == 0
        assert labels_of(node)['corrections'] == {'waiting': 0, 'sent': 1, 'given_up': 1, 'missed': 2}
        log = node.log.read_text()
        assert log.count("the labeling config has no 'mine'") == 1


def test_a_switch_of_models_renames_the_backend(
    label_studio: LabelStudio, loop: MockLoopProcess, tmp_path: Path
) -> None:
    """After a switch of models the backend and the project get the new model version, also with basic auth; a title
    by hand and a project that shows other predictions stay."""
    projects = [label_studio.create_project(generate('skeleton'), title=f'switched {number}') for number in range(3)]
    (task,) = projects[2].import_tasks([{'image': 'https://example.com/1.jpg'}])
    projects[2].import_predictions([{'task': task, 'result': [], 'score': 0.5, 'model_version': 'theirs'}])
    projects[2].change(model_version='theirs')
    with node_of(tmp_path, label_studio, free_port(), **loop.settings, **AUTH, POLL_SECONDS=0.5) as node:
        for project, title in zip(projects, ('test-card 1.0', 'by hand', 'test-card 1.0'), strict=True):
            project.connect(node.url, title=title, basic_auth=LOGIN)
            knows(node, project)
        loop.upload_package(make_package(tmp_path / 'next.zip', version='1.1'), '1.1')
        loop.set_target('1.1')
        version = 'test-card 1.1'
        eventually(lambda: shown(projects[0]) == (version, version), 'the first project follows', SECONDS)
        eventually(lambda: shown(projects[2]) == (version, 'theirs'), 'the third project keeps its choice', SECONDS)
        assert shown(projects[1]) == ('by hand', 'by hand')
        assert f'wholebody labelstudio init --project {projects[1].id}' in node.log.read_text()


def shown(project: Project) -> tuple[str, str]:
    """Return the title of the backend and the model version of the project."""
    (backend,) = project.server.request('GET', '/api/ml', params={'project': project.id})
    return backend['title'], project.settings()['model_version']
