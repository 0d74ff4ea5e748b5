"""Work in Label Studio's editor with Chromium and a node: predictions, smart rectangles, corrections."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.support.cards import FIGURES, iou, make_card
from benchmarks.support.label_studio_api import Json, LabelStudio, Project
from benchmarks.support.loops import MockLoopProcess, running_mock_loop
from benchmarks.support.processes import NodeProcess, running_node
from detector.datasets.person import VISIBLE, Person
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import from_results, to_results
from detector.pose import images
from mock.test_card.cards import Figure
from tests.support.integration.browser import Browser, Point

pytestmark = pytest.mark.integration

SIZE = (720, 480)
CARD = images.encode_jpeg(make_card(), quality=92)
STYLES: tuple[Style, ...] = ('keypoints', 'skeleton')


@pytest.fixture(scope='module')
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MockLoopProcess]:
    with running_mock_loop(tmp_path_factory.mktemp('learning') / 'loop') as server:
        yield server


@pytest.fixture(scope='module')
def node(
    tmp_path_factory: pytest.TempPathFactory, label_studio: LabelStudio, loop: MockLoopProcess
) -> Iterator[NodeProcess]:
    """Start a node between Label Studio and the Learning Loop."""
    settings: dict[str, Any] = {
        'LABEL_STUDIO_URL': label_studio.url,
        'LABEL_STUDIO_API_TOKEN': label_studio.personal_token(),
        'UPLOAD_SECONDS': 0.1,
        **loop.settings,
    }
    with running_node(tmp_path_factory.mktemp('node'), **settings) as running:
        yield running


def project_with_card(server: LabelStudio, node: NodeProcess, style: Style, title: str) -> tuple[Project, int]:
    project = server.create_project(generate(style), title=title)
    (task_id,) = project.upload([('card.jpg', CARD)])
    project.connect(node.url)
    return project, task_id


def percent(x: float, y: float) -> Point:
    return 100 * float(x) / SIZE[0], 100 * float(y) / SIZE[1]


def assert_places(drawn: dict[str, list[Point]], figures: Sequence[Figure], style: Style) -> None:
    """Assert that the canvas has exactly the figures' boxes and keypoints, within 1 % of the image."""
    boxes = [points for points in drawn.values() if len(points) == 4]
    assert len(boxes) == len(figures)
    found = np.array([point for points in drawn.values() if len(points) != 4 for point in points])
    assert len(found) == 133 * len(figures)
    assert len(drawn) == len(figures) * (134 if style == 'keypoints' else 2)
    for figure in figures:
        expected = np.array([percent(*point) for point in figure.keypoints])
        nearest = np.linalg.norm(expected[:, None] - found[None], axis=2).min(axis=1)
        assert np.percentile(nearest, 95) < 1
        corners = [np.array([*np.min(box, axis=0), *np.max(box, axis=0)]) * (7.2, 4.8, 7.2, 4.8) for box in boxes]
        assert max(iou(corner, figure.box) for corner in corners) > 0.9


@pytest.mark.parametrize('style', STYLES)
def test_a_task_opens_with_all_skeletons(
    label_studio: LabelStudio, node: NodeProcess, browser: Browser, style: Style
) -> None:
    """A task opens with the boxes and keypoints of both persons in place, and with limbs in skeleton style."""
    project, task_id = project_with_card(label_studio, node, style, f'opens {style}')
    editor = browser.open(project, task_id, regions=268 if style == 'keypoints' else 4)
    editor.fit()
    assert_places(editor.drawn(), FIGURES, style)
    assert list(editor.limbs().values()) == ([132, 132] if style == 'skeleton' else [])
    editor.screenshot(f'node-opened-{style}')
    assert browser.errors == []


@pytest.mark.parametrize('style', STYLES)
def test_a_box_is_drawn_and_a_point_corrected(
    label_studio: LabelStudio, node: NodeProcess, loop: MockLoopProcess, browser: Browser, style: Style
) -> None:
    """A smart rectangle brings the points of its person only, and the corrected point arrives in the Loop."""
    project, task_id = project_with_card(label_studio, node, style, f'smart {style}')
    project.annotate(task_id, [])  # so that the task opens without predictions
    figure = FIGURES[1]
    x1, y1, x2, y2 = figure.box + np.array([-6, -6, 6, 6])
    editor = browser.open(project, task_id, regions=0)
    editor.fit()
    editor.turn_auto_annotation_on()
    editor.draw_rectangle('person', percent(x1, y1), percent(x2, y2), smart=True)
    (person,) = from_results(editor.suggestions(), parse(generate(style)), SIZE)
    assert np.percentile(np.linalg.norm(person.keypoints - figure.keypoints, axis=1), 95) < 0.01 * SIZE[0]
    editor.screenshot(f'node-suggested-{style}')
    editor.accept_suggestions()
    nose = percent(*person.keypoints[0])
    corrected = nose[0] + 5, nose[1] - 4
    editor.drag(nose, corrected)
    editor.screenshot(f'node-corrected-{style}')
    editor.submit()
    metadata = _arrived(loop, task_id)
    (arrived,) = [point for point in metadata['point_annotations'] if point['category_name'] == 'nose']
    assert np.hypot(arrived['x'] - corrected[0] * 7.2, arrived['y'] - corrected[1] * 4.8) < 1
    others = [point for point in metadata['point_annotations'] if point['category_name'] != 'nose']
    assert len(others) == 132
    assert len(metadata['box_annotations']) == 1


@pytest.mark.parametrize('key', ['u', 'Escape'])
def test_a_person_is_added_to_a_submitted_task(
    label_studio: LabelStudio, node: NodeProcess, browser: Browser, key: str
) -> None:
    """After a region was selected, a smart rectangle beside it brings its person once the key has ended the selection;
    a drag that begins inside a box moves the box instead."""
    project, task_id = project_with_card(label_studio, node, 'skeleton', f'add a person after {key}')
    first, second = FIGURES
    project.annotate(task_id, to_results([labelled(first)], parse(generate('skeleton')), SIZE))
    editor = browser.open(project, task_id, regions=2)
    editor.fit()
    before = editor.result()
    editor.turn_auto_annotation_on()
    editor.page.mouse.click(*editor.on_page(percent(*first.keypoints[0])))
    editor.settle()
    editor.page.keyboard.press(key)
    editor.settle()
    x1, y1, x2, y2 = second.box + np.array([-6, -6, 6, 6])
    editor.draw_rectangle('person', percent(x1, y1), percent(x2, y2), smart=True)
    (person,) = from_results(editor.suggestions(), parse(generate('skeleton')), SIZE)
    assert np.percentile(np.linalg.norm(person.keypoints - second.keypoints, axis=1), 95) < 0.01 * SIZE[0]
    editor.reject_suggestions()
    assert editor.result() == before
    editor.page.keyboard.press(key)
    left, top = first.box[:2] + 4
    editor.drag(percent(left, top), percent(left + 40, top + 10))
    moved = from_results(editor.result(), parse(generate('skeleton')), SIZE)
    assert moved[0].box is not None
    np.testing.assert_allclose(moved[0].box - first.box, [40, 10, 40, 10], atol=2)
    assert editor.suggestions() == []


def labelled(figure: Figure) -> Person:
    """Return a figure as an annotator labels it."""
    visible = np.full(133, VISIBLE, dtype=np.int8)
    keypoints, box = figure.keypoints.astype(np.float32), figure.box.astype(np.float32)
    return replace(Person.empty(), box=box, keypoints=keypoints, visibility=visible)


def _arrived(loop: MockLoopProcess, task_id: int) -> Json:
    """Return the latest of the task's annotations in the Loop once it has points."""
    deadline = time.monotonic() + 30
    while True:
        found = [image['metadata'] for image in loop.images()]
        matching = [item for item in found if f'task_{task_id}' in item['tags'] and item['point_annotations']]
        if matching:
            return dict(matching[-1])
        assert time.monotonic() < deadline, found
        time.sleep(0.2)
