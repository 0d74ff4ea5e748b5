"""Compare `wholebody labelstudio queue --limit` with asking Label Studio for all tasks.

    uv run python -m benchmarks.review_queue [--tasks 300] [--limit 50] [--rounds 5] [-o FILE.json]

The benchmark starts a real Label Studio, installed at the first run. Nobody can rank tasks without reading their
predictions, so the rival is a client that asks for all tasks with their predictions, page by page as the command does.
In each round, both take turns; the command has another order each time, so that it writes all ranks, and its time
includes the start of its process. The exit status is 1 if the goal is missed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from detector.datasets.person import VISIBLE, Person
from detector.label_studio.labels.config import generate, parse
from detector.label_studio.labels.regions import to_results

from .support.label_studio_api import LabelStudio, Project
from .support.label_studio_server import running_label_studio
from .support.processes import clean_environment

GOAL: Final = 3.0
"""Largest ratio to asking for all tasks."""
_PAGE_TASKS: Final = 50
_SIZE: Final = (640, 480)
_ORDERS: Final = ('diversity', 'uncertainty')


@dataclass(kw_only=True)
class Figures:
    """Seconds per round."""

    asked: list[float] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> list[float]:
        return [queued / asked for queued, asked in zip(self.queued, self.asked, strict=True)]


def run(folder: Path, *, tasks: int, limit: int, rounds: int) -> Figures:
    """Measure both in turn.

    :param folder: empty folder for the database and the log.
    """
    figures = Figures()
    with running_label_studio(folder / 'studio') as studio:
        project = _project(studio, tasks)
        for number in range(rounds):
            figures.asked.append(_ask(project, tasks))
            figures.queued.append(_queue(project, limit, _ORDERS[number % len(_ORDERS)]))
            print(f'round {number + 1}: {figures.asked[-1]:.1f} s asked, {figures.queued[-1]:.1f} s queued', flush=True)
    return figures


def _project(studio: LabelStudio, tasks: int) -> Project:
    """Create a project with one predicted person per task."""
    config = generate('skeleton')
    project, rng = studio.create_project(config), np.random.default_rng(0)
    ids = project.import_tasks([{'image': f'/data/upload/1/01234567-{number}.jpg'} for number in range(tasks)])
    predictions = []
    for task in ids:
        person = Person.empty()
        person.keypoints[:], person.visibility[:] = rng.uniform((0, 0), _SIZE, person.keypoints.shape), VISIBLE
        person.scores[:] = rng.uniform(0.2, 1, person.scores.shape)
        predictions.append(
            {'task': task, 'result': to_results([person], parse(config), _SIZE), 'score': 0.5, 'model_version': 'm 1.0'}
        )
    assert project.import_predictions(predictions) == tasks
    return project


def _ask(project: Project, tasks: int) -> float:
    start, seen, page = time.monotonic(), 0, 1
    while seen < tasks:
        wanted = {'project': project.id, 'fields': 'all', 'page': page, 'page_size': _PAGE_TASKS}
        seen += len(project.server.request('GET', '/api/tasks', params=wanted)['tasks'])
        page += 1
    return time.monotonic() - start


def _queue(project: Project, limit: int, by: str) -> float:
    settings = {'LABEL_STUDIO_URL': project.server.url, 'LABEL_STUDIO_API_TOKEN': project.server.personal_token()}
    call = [sys.executable, '-m', 'detector', 'labelstudio', 'queue', '--project', str(project.id), '--by', by]
    start = time.monotonic()
    subprocess.run([*call, '--limit', str(limit)], env=clean_environment(**settings), check=True, capture_output=True)
    return time.monotonic() - start


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tasks', type=int, default=300)
    parser.add_argument('--limit', type=int, default=50)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('-o', '--output', type=Path, help='JSON file for the figures')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(Path(folder), tasks=options.tasks, limit=options.limit, rounds=options.rounds)
    ratio = median(figures.ratios)
    verdict = 'met' if ratio <= GOAL else 'MISSED'
    print(
        f'{median(figures.asked):.1f} s to ask for {options.tasks} tasks, {median(figures.queued):.1f} s to queue '
        f'{options.limit}: × {ratio:.2f}; the goal of at most {GOAL:g} is {verdict}'
    )
    if options.output is not None:
        options.output.write_text(json.dumps(asdict(figures), indent=1) + '\n')
    return 0 if ratio <= GOAL else 1


if __name__ == '__main__':
    sys.exit(main())
