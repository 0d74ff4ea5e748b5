"""`wholebody labelstudio queue` and `evaluate`, as processes against a real Label Studio."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from benchmarks.support.label_studio_api import Json, LabelStudio, Project
from benchmarks.support.processes import PROJECT, clean_environment, free_port
from detector.datasets.person import Person
from detector.label_studio.labels.config import Style, generate, parse
from detector.label_studio.labels.regions import to_results
from tests.support.label_studio.evaluated import LEFT_HAND, NOSE, SIZE, by_hand, make_person, moved, unsure
from tests.support.label_studio.recorder import Recorder, Reply, Request, recording

pytestmark = pytest.mark.integration

OLD, NEW = 'm 1.0', 'm 1.1'
TASKS = 8
STYLES = pytest.mark.parametrize('style', ['skeleton', 'keypoints'])


def run(label_studio: LabelStudio, *arguments: Any, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `wholebody labelstudio …` and check that its output shows no token.

    :param settings: further settings, or replacements for address and token of the server.
    """
    environment = clean_environment(
        **{'LABEL_STUDIO_URL': label_studio.url, 'LABEL_STUDIO_API_TOKEN': label_studio.token} | settings
    )
    environment['PYTHONPATH'] = os.pathsep.join(filter(None, [str(PROJECT), environment.get('PYTHONPATH')]))
    done = subprocess.run(
        [sys.executable, '-m', 'detector', 'labelstudio', *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert environment['LABEL_STUDIO_API_TOKEN'] not in done.stdout + done.stderr
    return done


def succeed(label_studio: LabelStudio, *arguments: Any, **settings: str) -> str:
    done = run(label_studio, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ranked(printed: str) -> list[int]:
    """Return the tasks of the table in its order."""
    rows = [line.split() for line in printed.splitlines()]
    return [int(row[1]) for row in rows if len(row) > 2 and row[0].isdigit() and row[1].isdigit()]


def predict(style: Style, task: int, persons: Sequence[Person], version: str = NEW, score: float = 0.5) -> Json:
    results = to_results(persons, parse(generate(style)), SIZE)
    return {'task': task, 'result': results, 'score': score, 'model_version': version}


def make_project(label_studio: LabelStudio, style: Style) -> tuple[Project, list[int]]:
    """Make eight tasks with predictions of two versions, the older one with scores in another order.

    All have different postures, and the hands are less certain for higher numbers.
    """
    project = label_studio.create_project(generate(style), title='queue', sampling='Uncertainty sampling')
    tasks = project.import_tasks([{'image': f'/data/upload/1/01234567-image{number}.jpg'} for number in range(TASKS)])
    people = [unsure(make_person(seed=number), 'left_hand', 0.75 - number / 20) for number in range(TASKS)]
    noise = np.random.default_rng(0).uniform(size=TASKS).round(4).tolist()
    old = [predict(style, task, [people[n]], OLD, noise[n]) for n, task in enumerate(tasks)]
    new = [predict(style, task, [people[n]], NEW) for n, task in enumerate(tasks)]
    assert project.import_predictions(old) == project.import_predictions(new) == TASKS
    return project, tasks


def tab_of(project: Project) -> Json:
    views = project.server.request('GET', '/api/dm/views', params={'project': project.id})
    (view,) = [view for view in views if view['data'].get('title') == 'Queue']
    found: Json = view
    return found


def listed(project: Project) -> list[int]:
    """Return the tasks of the tab in its order."""
    answer = project.server.request('GET', '/api/tasks', params={'view': tab_of(project)['id'], 'page_size': 100})
    return [int(task['id']) for task in answer['tasks']]


def stream(project: Project, result: Sequence[Json]) -> list[int]:
    """Return the tasks that "Label All Tasks" gives one after the other."""
    tasks: list[int] = []
    while (answer := project.server.ask('GET', f'/api/projects/{project.id}/next')).is_success:
        tasks.append(int(answer.json()['id']))
        project.annotate(tasks[-1], result)
    return tasks


def scores(project: Project, version: str = NEW) -> dict[int, float]:
    return {p['task']: p['score'] for p in project.predictions() if p['model_version'] == version}


@STYLES
@pytest.mark.parametrize('by', ['uncertainty', 'diversity', 'both'])
def test_the_tab_has_the_order_of_the_queue(label_studio: LabelStudio, style: Style, by: str) -> None:
    """The tab, and "Label Tasks As Displayed" in it, have the queue's order for the newest version; all predictions
    keep their scores, and a second run changes nothing."""
    project, tasks = make_project(label_studio, style)
    result = to_results([by_hand(make_person(seed=2))], parse(generate(style)), SIZE)
    project.annotate(tasks[2], result)
    project.annotate(tasks[5], [], was_cancelled=True)
    before = scores(project), scores(project, OLD)
    left = set(tasks) - {tasks[2], tasks[5]}
    order = ranked(succeed(label_studio, 'queue', '-p', project.id, '--by', by))
    assert set(order) == left
    if by == 'uncertainty':
        assert order == sorted(left, reverse=True)
    assert listed(project) == order
    again = succeed(label_studio, 'queue', '-p', f'{label_studio.url}/projects/{project.id}/data?tab=1', '--by', by)
    assert ranked(again) == order
    assert '0 ranks changed' in again
    assert listed(project) == order
    assert (scores(project), scores(project, OLD)) == before
    assert as_displayed(project, result, len(order)) == order


def as_displayed(project: Project, result: Sequence[Json], count: int) -> list[int]:
    """Return the first tasks that "Label Tasks As Displayed" gives in the tab, one after the other."""
    tab = tab_of(project)
    chosen: Json = {'selectedItems': {'all': True, 'excluded': []}}
    body = chosen | {name: tab['data'][name] for name in ('ordering', 'filters')} | {'project': project.id}
    tasks = []
    for _ in range(count):
        wanted = {'id': 'next_task', 'project': project.id}
        tasks.append(int(project.server.request('POST', '/api/dm/actions', params=wanted, json=body)['id']))
        project.annotate(tasks[-1], result)
    return tasks


def test_another_version_a_limit_and_parts(label_studio: LabelStudio) -> None:
    """The tab shows only the tasks within the limit, and sampling changes only on request."""
    project, tasks = make_project(label_studio, 'skeleton')
    before = scores(project, OLD)
    project.change(sampling='Sequential sampling')
    options = ['--by', 'uncertainty', '--limit', 3, '--part', 'hands', '--model-version', OLD]
    printed = succeed(label_studio, 'queue', '-p', project.id, *options)
    assert ranked(printed) == tasks[::-1][:3] == listed(project)
    assert 'left_hand' in printed
    assert '3 of 8 tasks, predictions of m 1.0' in printed
    assert project.settings()['sampling'] == 'Sequential sampling'
    assert scores(project, OLD) == before
    # the first task never had a rank, and the third has none any more
    assert ranked(succeed(label_studio, 'queue', '-p', project.id, *options, '--limit', 2)) == tasks[::-1][:2]
    assert listed(project) == tasks[::-1][:2]
    refused = run(label_studio, 'queue', '-p', project.id, '--stream')
    assert refused.returncode == 2
    succeed(label_studio, 'queue', '-p', project.id, '--by', 'uncertainty', '--stream')
    settings = project.settings()
    assert (settings['model_version'], settings['sampling']) == (NEW, 'Uncertainty sampling')
    assert listed(project) == tasks[::-1]


def test_the_label_stream_follows_the_scores(label_studio: LabelStudio) -> None:
    """With `--stream`, "Label All Tasks" gives the tasks by the scores that their predictions came with."""
    project, tasks = make_project(label_studio, 'skeleton')
    project.change(sampling='Sequential sampling')
    for number, prediction in enumerate(p for p in project.predictions() if p['model_version'] == NEW):
        label_studio.request('PATCH', f'/api/predictions/{prediction["id"]}/', json={'score': 0.9 - number / 20})
    succeed(label_studio, 'queue', '-p', project.id, '--by', 'uncertainty', '--stream')
    assert stream(project, []) == tasks[::-1]


@contextmanager
def counting(label_studio: LabelStudio) -> Iterator[Recorder]:
    """Run a server that records requests and passes them on to Label Studio."""
    with recording() as proxy, httpx.Client(base_url=label_studio.url, timeout=200) as client:

        def passed_on(request: Request) -> Reply:
            kept = {name: value for name, value in request.headers.items() if name in ('authorization', 'content-type')}
            answer = client.request(request.method, request.path, headers=kept, content=request.body)
            kind = {'Content-Type': answer.headers['Content-Type']} if answer.content else {}
            return Reply(answer.status_code, answer.content, kind)

        proxy.answer = passed_on
        yield proxy


def test_a_queue_takes_few_requests_however_many_tasks_there_are(label_studio: LabelStudio) -> None:
    """`--limit 50` reads 50 tasks per request and writes each digit of the ranks in at most ten requests, for a new
    queue and for another order; `benchmarks.review_queue` measures the time."""
    project = label_studio.create_project(generate('skeleton'))
    tasks = project.import_tasks([{'image': f'/data/upload/1/01234567-image{number}.jpg'} for number in range(300)])
    assert project.import_predictions([predict('skeleton', task, [make_person(seed=task)]) for task in tasks]) == 300
    for by in ('diversity', 'uncertainty', 'both'):
        with counting(label_studio) as proxy:
            printed = succeed(
                label_studio, 'queue', '-p', project.id, '--limit', 50, '--by', by, LABEL_STUDIO_URL=proxy.url
            )
        assert ranked(printed) == listed(project)
        assert len(listed(project)) == 50
        paths = [path.partition('?')[0] for path in proxy.paths]
        assert paths.count('/api/tasks/') == 6
        # ten for each of two digits, and one for tasks that are no longer queued
        assert 0 < paths.count('/api/dm/actions') <= 21
        assert len(paths) <= 40, paths


def test_a_dry_run_writes_nothing(label_studio: LabelStudio) -> None:
    """A dry run has the order of the real one and writes no scores, tab or settings, also with a personal token."""
    project, _ = make_project(label_studio, 'keypoints')
    before = project.predictions(), project.settings()
    printed = succeed(
        label_studio, 'queue', '-p', project.id, '--dry-run', LABEL_STUDIO_API_TOKEN=label_studio.personal_token()
    )
    assert 'nothing is written' in printed
    assert [p['score'] for p in project.predictions()] == [p['score'] for p in before[0]]
    assert project.settings()['model_version'] == before[1]['model_version']
    assert not label_studio.request('GET', '/api/dm/views', params={'project': project.id})
    assert ranked(succeed(label_studio, 'queue', '-p', project.id)) == ranked(printed)


@STYLES
def test_evaluate_reproduces_an_oks_that_was_computed_by_hand(
    label_studio: LabelStudio, tmp_path: Path, style: Style
) -> None:
    """`evaluate` reports the OKS computed by hand for a project and its snapshot, with links to the tasks."""
    project = label_studio.create_project(generate(style))
    tasks = project.import_tasks([{'image': f'/data/upload/1/01234567-image{number}.jpg'} for number in range(3)])
    person = make_person(width=200, height=400)
    wrong = {OLD: moved(person, LEFT_HAND.indices, 100), NEW: moved(person, [NOSE], 12, -16)}
    for version, found in wrong.items():
        assert project.import_predictions([predict(style, task, [found], version) for task in tasks]) == 3
    result = to_results([by_hand(person)], parse(generate(style)), SIZE)
    project.annotate(tasks[0], result)
    project.annotate(tasks[1], [], was_cancelled=True)
    report, figures, snapshot = tmp_path / 'report.html', tmp_path / 'figures.json', tmp_path / 'snapshot.json'
    printed = succeed(label_studio, 'evaluate', '--project', project.id, '--json', figures, '--html', report)
    found = json.loads(figures.read_text())
    old, new = ({part['name']: part for part in one['parts']} for one in found['evaluations'])
    expected = np.exp(-(20**2) / (2 * 0.53 * 200 * 400 * (2 * 0.026) ** 2))
    assert new['body']['oks'] == pytest.approx((16 + expected) / 17, abs=1e-5)
    assert (new['left_hand']['oks'], old['body']['oks']) == pytest.approx((1, 1), abs=1e-6)
    assert old['left_hand']['ap'] == 0
    assert found['comparison']['versions'] == [OLD, NEW]
    assert found['warnings'] == []
    assert f'{(16 + expected) / 17:.3f}' in printed
    assert f'{label_studio.url}/projects/{project.id}/data?task={tasks[0]}' in report.read_text()
    made = label_studio.request(
        'POST', f'/api/projects/{project.id}/exports/', json={'serialization_options': {'predictions': {'only_id': 0}}}
    )
    content = label_studio.ask('GET', f'/api/projects/{project.id}/exports/{made["id"]}/download?exportType=JSON')
    snapshot.write_bytes(content.content)
    succeed(label_studio, 'evaluate', snapshot, '--json', tmp_path / 'again.json')
    again = json.loads((tmp_path / 'again.json').read_text())
    for one, other in zip(again['evaluations'], found['evaluations'], strict=True):
        assert one['parts'] == other['parts']
    snapshot.write_bytes(project.export())
    refused = run(label_studio, 'evaluate', snapshot)
    assert refused.returncode == 1
    assert 'by number only' in refused.stderr


def test_several_projects_are_evaluated_together(label_studio: LabelStudio, tmp_path: Path) -> None:
    """Several projects are evaluated together, each with its own labeling config."""
    numbers = []
    for style in ('skeleton', 'keypoints'):
        project = label_studio.create_project(generate(style))
        (task,) = project.import_tasks([{'image': '/data/upload/1/a.jpg'}])
        project.import_predictions([predict(style, task, [make_person()])])
        project.annotate(task, to_results([make_person()], parse(generate(style)), SIZE))
        numbers.append(project.id)
    printed = succeed(label_studio, 'evaluate', '-p', numbers[0], '-p', numbers[1])
    assert 'm 1.1: 2 images, 2 people, 2 predicted, 0 missed, 0 surplus' in printed


def test_what_is_missing_is_said(label_studio: LabelStudio) -> None:
    """Missing things are reported on standard error in a line or two, with an exit code."""
    project, tasks = make_project(label_studio, 'skeleton')
    empty = label_studio.create_project(generate('skeleton'))
    strange = label_studio.create_project(
        '<View><Text name="t" value="$text"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
    )
    boxes = label_studio.create_project(
        '<View><Image name="i" value="$image"/><RectangleLabels name="b" toName="i"><Label value="person"/>'
        '</RectangleLabels></View>'
    )
    unreachable = f'http://127.0.0.1:{free_port()}'
    cases: list[tuple[list[Any], dict[str, str], str]] = [
        (['queue', '-p', empty.id], {}, 'has no predictions'),
        (
            ['queue', '-p', project.id, '--model-version', 'x'],
            {},
            "no predictions of 'x', only of m 1.1, m 1.0",
        ),
        (['queue', '-p', strange.id], {}, 'labeling config'),
        (['queue', '-p', 999999], {}, '--project 999999: there is no project'),
        (['queue', '-p', 'x'], {}, '--project x: there is no project with this title'),
        (['queue', '-p', project.id], {'LABEL_STUDIO_API_TOKEN': '0' * 40}, 'LABEL_STUDIO_API_TOKEN'),
        (['queue', '-p', project.id], {'LABEL_STUDIO_URL': ''}, 'LABEL_STUDIO_URL'),
        (['queue', '-p', project.id], {'LABEL_STUDIO_URL': unreachable}, 'does not answer'),
        (['evaluate', '-p', project.id], {}, 'no task has an annotation'),
        (['evaluate', '-p', strange.id], {}, 'labeling config'),
        (['evaluate', '-p', boxes.id], {}, 'no keypoints'),
        (['evaluate', '-p', 999999], {}, '--project 999999: there is no project'),
        (['evaluate', '-p', project.id], {'LABEL_STUDIO_API_TOKEN': '0' * 40}, 'LABEL_STUDIO_API_TOKEN'),
        (['evaluate', '-p', project.id], {'LABEL_STUDIO_URL': ''}, 'LABEL_STUDIO_URL'),
    ]
    for arguments, settings, text in cases:
        done = run(label_studio, *arguments, **settings)
        assert done.returncode in (1, 2), arguments
        assert text in done.stderr, (arguments, done.stderr)
        assert 'Traceback' not in done.stderr
    project.annotate(tasks[0], [])
    done = run(label_studio, 'evaluate', '-p', project.id, '--model-version', 'x')
    assert done.returncode == 1
    assert "no annotated task has a prediction of 'x', only of m 1.0, m 1.1" in done.stderr
    empty.annotate(empty.import_tasks([{'image': '/data/upload/1/a.jpg'}])[0], [])
    assert (
        'none of the 1 annotated tasks has a usable prediction' in run(label_studio, 'evaluate', '-p', empty.id).stderr
    )
    for task in tasks[1:]:
        project.annotate(task, [])
    assert 'nothing to queue' in succeed(label_studio, 'queue', '-p', project.id)
