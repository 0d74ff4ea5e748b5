"""Compare predictions that our command pushes to Label Studio with predictions that Label Studio retrieves.

    uv run python -m benchmarks.preannotation [--tasks 500] [--rounds 1] [--uploads] [-o FILE.json]

The benchmark starts a real Label Studio, installed at the first run, and a node. In each round, "Retrieve predictions"
gets a prediction from the node for every task of one project, and `wholebody labelstudio preannotate` pushes one to
every task of an equal project, with the start of its process included. Tasks are test cards with two persons. Each
image takes 50 ms to fetch, as from a cloud storage; uploads cost Label Studio 25 to 35 ms each. Both ways use the test
card model. The exit status is 1 if a goal is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from detector.label_studio.labels.config import Style, generate
from detector.pose import images

from .label_studio_backends import serving
from .support.cards import make_card
from .support.label_studio_api import LabelStudio, Project
from .support.label_studio_server import running_label_studio
from .support.processes import NodeProcess, clean_environment, running_node

GOALS: Final[Mapping[Style, float]] = {'keypoints': 5.0, 'skeleton': 2.0}
"""Smallest ratio to "Retrieve predictions", by the style of regions."""
_UPLOADED_AT_ONCE: Final = 100


@dataclass(kw_only=True)
class Figures:
    """Seconds per run for one style of regions.

    :param ratios: per round, retrieved divided by pushed.
    """

    style: Style
    retrieved: list[float] = field(default_factory=list)
    pushed: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [slow / fast for slow, fast in zip(self.retrieved, self.pushed, strict=True)]


def run(folder: Path, *, tasks: int, rounds: int, uploads: bool) -> list[Figures]:
    """Measure both styles in turn.

    :param folder: empty folder for databases and logs.
    :param uploads: True if Label Studio serves the images.
    """
    figures = [Figures(style=style) for style in GOALS]
    picture = images.encode_jpeg(make_card(), quality=90)
    with running_label_studio(folder / 'studio') as studio, serving([picture]) as port:
        settings = {
            'LABEL_STUDIO_URL': studio.url,
            'LABEL_STUDIO_API_TOKEN': studio.personal_token(),
            'IMAGE_HOSTS': f'127.0.0.1:{port}',
        }
        made = partial(_project, studio, tasks=tasks, picture=picture, port=None if uploads else port)
        with running_node(folder / 'node', **settings) as node:
            for number in range(rounds):
                for measured in figures:
                    measured.retrieved.append(_retrieve(*made(measured.style), node))
                    project, _ = made(measured.style)
                    measured.pushed.append(_push(project, {**settings, 'DATA_FOLDER': str(folder / 'data')}, tasks))
                    line = f'{measured.retrieved[-1]:.1f} s retrieved, {measured.pushed[-1]:.1f} s pushed'
                    print(f'round {number + 1}, {measured.style}: {line}', flush=True)
    return figures


def _project(
    studio: LabelStudio, style: Style, *, tasks: int, picture: bytes, port: int | None
) -> tuple[Project, list[int]]:
    """Create a project with tasks.

    :param port: port of the image server; None to upload the images.
    """
    project, ids = studio.create_project(generate(style)), []
    for start in range(0, tasks, _UPLOADED_AT_ONCE):
        numbers = range(start, min(tasks, start + _UPLOADED_AT_ONCE))
        if port is None:
            ids += project.upload([(f'{number}.jpg', picture) for number in numbers])
        else:
            # each task has its own address, so that no image is shared
            ids += project.import_tasks([{'image': f'http://127.0.0.1:{port}/{number}/0.jpg'} for number in numbers])
    return project, ids


def _retrieve(project: Project, ids: Sequence[int], node: NodeProcess) -> float:
    project.connect(node.url)
    start = time.monotonic()
    answer = project.retrieve_predictions(ids)
    seconds = time.monotonic() - start
    stored = len(project.predictions())
    assert stored == len(ids), f'{stored} of {len(ids)} predictions were retrieved: {answer}'
    return seconds


def _push(project: Project, settings: Mapping[str, str], tasks: int) -> float:
    call = [sys.executable, '-m', 'detector', 'labelstudio', 'preannotate', '--project', str(project.id)]
    start = time.monotonic()
    subprocess.run(call, env=clean_environment(**settings), check=True, capture_output=True)
    seconds = time.monotonic() - start
    assert len(project.predictions()) == tasks
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', type=int, default=500)
    parser.add_argument('--rounds', type=int, default=1)
    parser.add_argument('--uploads', action='store_true', help='let Label Studio serve the images')
    parser.add_argument('-o', '--output', type=Path, help='JSON file for the figures')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), tasks=options.tasks, rounds=options.rounds, uploads=options.uploads)
    missed = 0
    for found in figures:
        ratio, goal = median(found.ratios), GOALS[found.style]
        missed += ratio < goal
        retrieved, pushed = (1000 * median(seconds) / options.tasks for seconds in (found.retrieved, found.pushed))
        verdict = 'met' if ratio >= goal else 'MISSED'
        each = f'{retrieved:.0f} ms a task retrieved, {pushed:.0f} ms pushed'
        print(f'{found.style:10} {each}: × {ratio:.2f}; the goal of {goal:g} is {verdict}')
    if options.output is not None:
        options.output.write_text(json.dumps([asdict(found) for found in figures], indent=1) + '\n')
    return 1 if missed else 0


if __name__ == '__main__':
    sys.exit(main())
