"""The whole way of a new user, uninterrupted: from an empty Label Studio to a COCO-WholeBody file."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.support.cards import CARD, FIGURES
from benchmarks.support.label_studio_api import LabelStudio, Project
from benchmarks.support.processes import PROJECT, NodeProcess, clean_environment, running_node
from detector.datasets.coco import read_coco
from detector.datasets.person import HIDDEN, VISIBLE
from detector.pose.skeleton import KEYPOINT_NAMES
from tests.support.integration.browser import Browser, Editor, Point

pytestmark = pytest.mark.integration

SIZE = (720, 480)
NOSE, WRIST = KEYPOINT_NAMES.index('nose'), KEYPOINT_NAMES.index('left_wrist')
MOVED = np.array([12.0, -9.0])
"""Way of the corrected nose in pixels."""
NUMBERS = ('no', 'one', 'two', 'three', 'four', 'five', 'six')
_WATCH = """for (const kind of ['mousedown', 'keydown']) window.addEventListener(kind, event => {
    const key = kind === 'mousedown' ? 'click' : event.key;
    if (['Shift', 'Control', 'Alt'].includes(key)) return;
    const held = [event.ctrlKey && 'Ctrl', event.shiftKey && 'Shift', event.altKey && 'Alt'].filter(Boolean);
    window.noteAction([...held, key].join('+'));
}, true)"""
"""Reports each press of a mouse button or of a key, with the keys that are held."""


def wholebody(studio: LabelStudio, node: NodeProcess, folder: Path, *words: Any) -> str:
    """Run `wholebody labelstudio …` in a folder, and return its output."""
    settings = {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.personal_token()}
    done = subprocess.run(
        [sys.executable, '-m', 'detector', 'labelstudio', *map(str, words)],
        cwd=folder,
        env=clean_environment(PYTHONPATH=PROJECT, DATA_FOLDER=folder / 'data', BACKEND_PORT=node.port, **settings),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_new_user_comes_from_photographs_to_a_dataset(
    label_studio: LabelStudio, browser: Browser, tmp_path: Path
) -> None:
    """Connect, validate, predict, correct a point, hide a point, submit and export, with as many actions in the editor
    as the annotator's page states."""
    settings = {'LABEL_STUDIO_URL': label_studio.url, 'LABEL_STUDIO_API_TOKEN': label_studio.personal_token()}
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'card.jpg').write_bytes(CARD)
    with running_node(tmp_path / 'node', **settings) as node:
        printed = wholebody(label_studio, node, tmp_path, 'init', '--title', 'Walk')
        (number,) = set(re.findall(rf'{label_studio.url}/projects/(\d+)', printed))
        project = Project(label_studio, int(number))
        config = project.settings()['label_config']
        validated = httpx.post(f'{node.url}/validate', json={'label_config': config}, timeout=20)
        assert validated.status_code == 200, validated.text
        wholebody(label_studio, node, tmp_path, 'import', '-p', 'Walk', 'photos')
        assert '1 of 1 tasks' in wholebody(label_studio, node, tmp_path, 'preannotate', '-p', 'Walk')
        actions = correct(browser, project)
        wholebody(label_studio, node, tmp_path, 'export', '-p', 'Walk', '-o', 'walk.json')
    (image,) = read_coco(tmp_path / 'walk.json')
    assert (image.file_name, len(image.persons)) == ('card.jpg', 2)
    person, other = sorted(image.persons, key=lambda one: np.abs(one.keypoints - FIGURES[0].keypoints).max())
    expected = FIGURES[0].keypoints.copy()
    expected[NOSE] += MOVED
    np.testing.assert_allclose(person.keypoints[[NOSE, WRIST]], expected[[NOSE, WRIST]], atol=3)
    assert person.visibility[WRIST] == HIDDEN
    assert (np.delete(person.visibility, WRIST) == VISIBLE).all()
    assert (other.visibility == VISIBLE).all()
    assert actions == ['click', 'click', 'click', 'Shift+click', 'Ctrl+Enter']
    page = (PROJECT / 'docs' / 'how-to' / 'annotate.md').read_text()
    assert f'takes one click to open and {NUMBERS[len(actions) - 1]} actions' in page


def correct(browser: Browser, project: Project) -> list[str]:
    """Open the only task from the list, move the nose, hide a wrist and submit; return the actions."""
    actions: list[str] = []
    browser.context.expose_binding('noteAction', lambda _, action: actions.append(action))
    browser.context.add_init_script(_WATCH)
    page = browser.context.new_page()
    page.goto(f'{project.server.url}/projects/{project.id}/data')
    page.get_by_test_id('table-row-wrapper').first.click()
    editor = Editor(page)
    editor.settle(regions=4)
    nose, wrist = place(FIGURES[0].keypoints[NOSE]), place(FIGURES[0].keypoints[WRIST])
    editor.drag(nose, place(FIGURES[0].keypoints[NOSE] + MOVED))
    page.mouse.click(*editor.on_page(place(FIGURES[0].keypoints[NOSE] + MOVED)))
    editor.settle()
    page.keyboard.down('Shift')
    page.mouse.click(*editor.on_page(wrist))
    page.keyboard.up('Shift')
    editor.settle()
    editor.screenshot('walk-corrected')
    editor.submit(by_key=True)
    return actions


def place(point: Any) -> Point:
    return 100 * float(point[0]) / SIZE[0], 100 * float(point[1]) / SIZE[1]
