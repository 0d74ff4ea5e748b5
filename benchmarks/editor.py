"""Measure how long Label Studio's editor takes to open a task with many persons, in each style.

    uv run --group integration python -m benchmarks.editor [--persons 10] [--rounds 5] [-o FILE.json]

Needs Chromium or Google Chrome, or CHROMIUM as the path of one, and installs Label Studio into a folder of its own at
the first run. Each style has a project with one task and one prediction. The browser opens the tasks in turn. The time
is wall time from the start of the navigation until the last region is drawn, so other programs on the machine count;
run it on an idle one. `empty` is a task without a prediction: the time that Label Studio itself takes. The exit status
is 1 if the goal is missed.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Final

from playwright.sync_api import BrowserContext, sync_playwright

from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import to_results

from .support.cards import CARD, FIGURES, person_of
from .support.label_studio_api import LabelStudio
from .support.label_studio_server import running_label_studio

STYLES: Final[tuple[Style, ...]] = ('parts', 'skeleton', 'keypoints')
EMPTY: Final = 'empty'
GOAL_SECONDS: Final = 3.0
"""Largest permitted median for style `parts`."""
_SIZE: Final = 720, 480
_PATIENCE_MILLISECONDS: Final = 600_000

_WATCH: Final = """regions => {
    const look = () => {
        const annotation = window.Htx?.annotationStore?.selected;
        const image = annotation && [...annotation.names.values()].find(tag => tag.type === 'image');
        const stage = image?.stageRef;
        const complete = stage && image.imageIsLoaded && !window.Htx.isLoading && annotation.regions.length === regions;
        const state = complete ? `${annotation.id} ${stage.find(() => true).length} ${image.stageWidth}` : '';
        if (state !== window.seen?.state)
            window.seen = {state, at: performance.now()};
        if (state && performance.now() - window.seen.at > 1500)
            window.opened = {seconds: window.seen.at / 1000, shapes: stage.find(() => true).length};
        else
            setTimeout(() => requestAnimationFrame(look), 50);
    };
    look();
}"""
"""Sets `opened` to the time since the start of the navigation at which the number of shapes on the canvas has changed
last, once it has not changed for 1.5 seconds."""


@dataclass(kw_only=True)
class Figures:
    """Figures of one style.

    :param regions: number of regions of the task.
    :param shapes: number of shapes on the canvas.
    :param seconds: time to open the task, per round.
    """

    regions: int
    shapes: int = 0
    seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A task, and the number of regions with which the editor shows it."""

    address: str
    regions: int


def run(folder: Path, chromium: Path, *, persons: int, rounds: int) -> dict[str, Figures]:
    """Open the task of each style once for each round, and once before.

    :param folder: empty folder for Label Studio's data.
    """
    with running_label_studio(folder) as server, _signed_in(chromium, server) as context:
        tasks = {style: _task(server, style, persons) for style in (*STYLES, EMPTY)}
        report = {style: Figures(regions=task.regions) for style, task in tasks.items()}
        for number in range(rounds + 1):
            for style, task in tasks.items():
                seconds, report[style].shapes = _opened(context, task)
                if number:  # the first time fills the caches
                    report[style].seconds.append(round(seconds, 3))
                print(f'round {number} of {rounds}: {style:10} {seconds:6.2f} s', flush=True)
    return report


def _task(server: LabelStudio, style: str, count: int) -> _Task:
    """Create a project with one task, and a prediction unless it is to be empty."""
    xml = generate('parts' if style == EMPTY else style)  # type: ignore[arg-type]
    project = server.create_project(xml, title=style)
    (task_id,) = project.upload([('card.jpg', CARD)])
    persons = [person_of(FIGURES[number % len(FIGURES)]) for number in range(0 if style == EMPTY else count)]
    result = to_results(persons, parse(xml), _SIZE)
    if result and project.import_predictions([{'task': task_id, 'result': result, 'model_version': 'v'}]) != 1:
        raise RuntimeError(f'Label Studio refuses the prediction in style {style}')
    address = f'{server.url}/projects/{project.id}/data?task={task_id}'
    return _Task(address=address, regions=len(result))


@contextmanager
def _signed_in(chromium: Path, server: LabelStudio) -> Iterator[BrowserContext]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, headless=True)
        context = browser.new_context(viewport={'width': 1600, 'height': 1000})
        context.add_cookies([{'name': 'sessionid', 'value': server.http.cookies['sessionid'], 'url': server.url}])
        try:
            yield context
        finally:
            browser.close()


def _opened(context: BrowserContext, task: _Task) -> tuple[float, int]:
    """Open a task in a new page.

    :return: seconds until the last region was drawn, and the number of shapes on the canvas.
    """
    page = context.new_page()
    try:
        page.goto(task.address, wait_until='commit')
        page.evaluate(_WATCH, task.regions)
        found = page.wait_for_function('window.opened', timeout=_PATIENCE_MILLISECONDS, polling=200).json_value()
        return float(found['seconds']), int(found['shapes'])
    finally:
        page.close()


def show(report: dict[str, Figures], persons: int) -> None:
    base = median(report['parts'].seconds)
    print(f'{persons} persons, medians of {len(report["parts"].seconds)} rounds; ratios to style parts')
    print(f'{"":10} {"regions":>8} {"shapes":>8} {"seconds":>8} {"lowest":>8} {"highest":>8} {"ratio":>6}')
    for style, figures in report.items():
        times = figures.seconds
        print(
            f'{style:10} {figures.regions:8} {figures.shapes:8} {median(times):8.2f} {min(times):8.2f} '
            f'{max(times):8.2f} {median(times) / base:6.2f}'
        )


def _chromium() -> Path:
    """:raises SystemExit: there is no Chromium."""
    names = [os.environ['CHROMIUM']] if 'CHROMIUM' in os.environ else ['chromium', 'google-chrome']
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        raise SystemExit(f'none of {", ".join(names)} is installed; let CHROMIUM name a Chromium or Google Chrome')
    return Path(found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--persons', type=int, default=10)
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('-o', '--output', type=Path, help='JSON file for the report')
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = run(Path(folder), _chromium(), persons=options.persons, rounds=options.rounds)
    show(report, options.persons)
    if options.output is not None:
        options.output.write_text(json.dumps({style: asdict(one) for style, one in report.items()}, indent=1) + '\n')
    seconds = median(report['parts'].seconds)
    print('the goal is met' if seconds <= GOAL_SECONDS else f'MISSED parts: {seconds:.2f} s, not {GOAL_SECONDS:g} s')
    return int(seconds > GOAL_SECONDS)


if __name__ == '__main__':
    sys.exit(main())
