"""Make the pictures of the annotator's page: `uv run --group integration python -m docs.make_editor_pictures`.

Needs Chromium or Google Chrome, and installs Label Studio into a folder of its own at the first run. The photograph is
NASA's portrait of an astronaut, which is in the public domain.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from skimage import data

from benchmarks.support.label_studio_api import LabelStudio, Project
from benchmarks.support.label_studio_server import running_label_studio
from benchmarks.support.processes import clean_environment, running_node
from tests.support.integration.browser import Browser, Editor, Point, chromium_executable, signed_in

PICTURES: Final = Path(__file__).parent / 'pictures'
WIDTH: Final = 1000
"""Width of the pictures, in pixels."""
MOVED: Final = 5, -6
"""Way of the corrected point, in percent of the image."""


def main() -> None:
    """Predict an image with one person and one with three, and photograph the steps of a correction."""
    with tempfile.TemporaryDirectory() as name, running_label_studio(Path(name) / 'studio') as server:
        folder = Path(name)
        settings = {'LABEL_STUDIO_URL': server.url, 'LABEL_STUDIO_API_TOKEN': server.personal_token()}
        with running_node(folder / 'node', MODE='starter', BACKEND_TYPE='onnxruntime', **settings) as node:
            environment = clean_environment(
                **settings, MODE='starter', BACKEND_PORT=node.port, DATA_FOLDER=folder / 'data'
            )
            astronaut = np.asarray(Image.open(Path(data.__file__).with_name('astronaut.png')).convert('RGB'))
            crowd = np.concatenate([astronaut, astronaut[:, ::-1], astronaut], axis=1)
            for title, style, picture in (('One', 'skeleton', astronaut), ('Crowd', 'parts', crowd)):
                (folder / title).mkdir()
                Image.fromarray(picture).save(folder / title / 'astronaut.jpg', quality=92)
                for words in (
                    ['init', '--title', title, '--style', style],
                    ['import', '-p', title, str(folder / title)],
                    ['preannotate', '-p', title],
                ):
                    command = [sys.executable, '-m', 'detector', 'labelstudio', *words]
                    subprocess.run(command, env=environment, cwd=folder, check=True)
            with signed_in(chromium_executable(), server) as browser:
                _photograph_correction(_open(browser, server, 'One'))
                _photograph_crowd(_open(browser, server, 'Crowd'))


def _open(browser: Browser, server: LabelStudio, title: str) -> Editor:
    """Open the only task of a project, and show its whole image."""
    listed = server.request('GET', '/api/projects')['results']
    (project,) = [Project(server, found['id']) for found in listed if found['title'] == title]
    (task,) = project.tasks()
    editor = browser.open(project, task['id'])
    editor.fit()
    return editor


def _photograph_correction(editor: Editor) -> None:
    _save(editor, 'annotate-open')
    x, y = _place(editor, 'left_shoulder')
    editor.drag((x, y), (x + MOVED[0], y + MOVED[1]))
    _save(editor, 'annotate-move')
    editor.page.mouse.click(*editor.on_page(_place(editor, 'nose')))
    editor.settle()
    editor.page.keyboard.down('Shift')
    editor.page.mouse.click(*editor.on_page(_place(editor, 'right_shoulder')))
    editor.page.keyboard.up('Shift')
    editor.settle()
    _save(editor, 'annotate-hidden')


def _photograph_crowd(editor: Editor) -> None:
    _save(editor, 'annotate-crowd')
    editor.turn_auto_annotation_on()
    editor.draw_rectangle('person', (60, 1), (36, 60), smart=True)
    _save(editor, 'annotate-smart')


def _place(editor: Editor, keypoint: str) -> Point:
    """Return the place of a keypoint of the only skeleton, in percent."""
    (skeleton,) = [region for region in editor.result() if region['type'] == 'vectorlabels']
    (vertex,) = [vertex for vertex in skeleton['value']['vertices'] if vertex['id'] == keypoint]
    return vertex['x'], vertex['y']


def _save(editor: Editor, name: str) -> None:
    """Save the editor without the list of tasks, with 256 colours."""
    path = PICTURES / f'{name}.png'
    editor.page.screenshot(path=path)
    _shrink(path)


def _shrink(path: Path) -> None:
    with Image.open(path) as picture:
        editor = picture.convert('RGB').crop((240, 48, *picture.size))
        small = editor.resize((WIDTH, editor.height * WIDTH // editor.width), Image.Resampling.LANCZOS)
    small.quantize(256).save(path, optimize=True)


if __name__ == '__main__':
    main()
