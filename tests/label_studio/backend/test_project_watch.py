"""The watch over projects, with a Label Studio in memory; tests/integration uses a real one."""

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from detector.errors import LabelStudioFault, NotInLabelStudio
from detector.label_studio.backend import project_watch
from detector.label_studio.backend.correction_queue import Hint
from detector.label_studio.backend.corrections import Corrections
from detector.label_studio.backend.known_projects import KnownProjects
from detector.label_studio.backend.project_watch import ProjectWatch
from detector.label_studio.server import project
from detector.label_studio.server.client import Connection

Json = dict[str, Any]
OWN = 'http://node:8004'


class Studio:
    """A Label Studio that calls `/setup` of the node before it lists the backends of a project that names it.

    :param projects: number of the project, and address and title of its backends.
    """

    def __init__(self, projects: dict[int, list[tuple[str, str]]]) -> None:
        self.backends = {
            number: [
                {
                    'id': 10 * number + n,
                    'url': url,
                    'title': title,
                    'auth_method': 'BASIC_AUTH',
                    'basic_auth_user': 'ann',
                }
                for n, (url, title) in enumerate(found)
            ]
            for number, found in projects.items()
        }
        self.tasks: dict[int, list[Json]] = {number: [] for number in projects}
        self.predictions: dict[int, list[str]] = {}
        self.version = 'm 1.0'
        self.is_down = False
        self.broken: set[int] = set()
        """Projects that Label Studio answers with an error."""
        self.asked: list[int] = []
        self.renamed: list[Json] = []
        self.call: Callable[[str, str], None] = lambda *_: None
        self.serves_all = False
        """True if all backends serve the version of the node."""
        self.host = 'node:8004'
        """Host of the calls to the node."""
        self.opened: list[str] = []
        """Hosts of calls to the node that annotators cause with each question for a backend."""

    def annotate(self, project: int, number: int, second: int, **fields: Any) -> None:
        """Add a task with an annotation, which was changed at a second after noon."""
        time = f'2026-11-28T12:00:{second:02}Z'
        annotation = {'id': number, 'updated_at': time, 'was_cancelled': False} | fields
        self.tasks[project].append({'id': number, 'updated_at': time, 'annotations': [annotation]})

    def _describe(self, project: int, backend: Json) -> Json:
        """Call a backend and describe it."""
        backend['model_version'] = self.version if self.serves_all or backend['url'] == OWN else 'theirs 1.0'
        if backend['url'] == OWN:
            self.call(f'{project}.1795188541', self.host)
        return backend

    async def get_json(self, path: str, *, project: int) -> Any:
        assert path == '/api/ml/'
        self.asked.append(project)
        if self.is_down or project in self.broken:
            raise LabelStudioFault('it does not answer')
        if project not in self.backends:
            raise NotInLabelStudio('no such project')
        return [dict(self._describe(project, backend)) for backend in self.backends[project]]

    async def request_object(self, method: str, path: str, *, params: Json | None = None, **_: Any) -> Json:
        if params is None:
            number = int(path.removeprefix('/api/ml/'))
            for host in self.opened:
                self.call(f'{number // 10}.1795188541', host)
            return self._describe(number // 10, self.backends[number // 10][number % 10])
        number = int(params.get('project') or re.findall(r'\d+', path)[0])
        if path.endswith('/model-versions/'):
            return {'static': [{'model_version': name, 'count': 1} for name in self.predictions.get(number, [])]}
        tasks = sorted(self.tasks[number], key=lambda task: str(task['updated_at']))
        if '-tasks:updated_at' in params['query']:
            return {'tasks': tasks[-1:]}
        since = re.findall(r'"value": "([^"]+)"', params['query'])[0]
        start = datetime.fromisoformat(since)
        changed = [task for task in tasks if datetime.fromisoformat(task['updated_at']) >= start]
        size = params['page_size']
        return {'tasks': changed[size * (params['page'] - 1) : size * params['page']]}

    async def request(self, method: str, path: str, *, json: Json) -> None:
        assert method == 'PATCH'
        self.renamed.append(json)
        (backend,) = [one for one in self.backends[json['project']] if path == f'/api/ml/{one["id"]}']
        backend['title'] = json['title']


class Taken:
    """Takes each version once, as the queue of corrections does."""

    def __init__(self) -> None:
        self.annotations: list[int] = []
        self._known: set[tuple[int, str]] = set()

    async def catch_up(self, found: Sequence[tuple[Hint, str]]) -> int:
        new = [(hint.annotation, version) for hint, version in found if (hint.annotation, version) not in self._known]
        self._known.update(new)
        self.annotations += [annotation for annotation, _ in new]
        return len(new)


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(project_watch, '_FIRST_SECONDS', 0.0)
    monkeypatch.setattr(project_watch, '_RETRY_SECONDS', 0.01)


@asynccontextmanager
async def watching(
    studio: Studio, path: Path, taken: Taken | None = None, *, seconds: float = 0.02, begin: datetime | None = None
) -> AsyncIterator[ProjectWatch]:
    watch = ProjectWatch(
        cast(Connection, studio),
        KnownProjects(path),
        corrections=cast(Corrections, taken),
        model_version=lambda: studio.version,
        password='secret',
        seconds=seconds,
        begin=begin,
    )
    studio.call = watch.note_call
    watch.start()
    try:
        yield watch
    finally:
        await watch.close()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / 'projects.json'


async def test_a_new_project_begins_now_and_is_caught_up_after_an_outage(path: Path) -> None:
    """Annotations from before the first contact are not sent; later ones are, each version once, over restarts."""
    studio, taken = Studio({1: [(OWN, 'm 1.0')]}), Taken()
    studio.annotate(1, 11, 1)
    async with watching(studio, path, taken) as watch:
        watch.note_call('1.1795188541')
        await until(lambda: 1 in KnownProjects(path))
    studio.annotate(1, 12, 2)
    studio.annotate(1, 13, 3, was_cancelled=True)
    async with watching(studio, path, taken) as watch:
        await until(lambda: taken.annotations)
        studio.annotate(1, 14, 4)
        await until(lambda: len(taken.annotations) > 1)
        asked = len(studio.asked)
        await until(lambda: len(studio.asked) > asked + 3)
        assert watch.about() == {'known': 1, 'error': None}
    assert taken.annotations == [12, 14]


async def test_a_flood_within_the_overlap_is_caught_up(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations of more tasks than a check reads are all caught up, also if they came within one minute."""
    monkeypatch.setattr(project, '_PAGE_TASKS', 2)
    monkeypatch.setattr(project_watch, '_MAX_PAGES', 2)
    studio, taken = Studio({1: [(OWN, 'm 1.0')]}), Taken()
    for number in range(1, 20):
        studio.annotate(1, number, second=min(number, 9))
    async with watching(studio, path, taken, begin=datetime(2026, 11, 28, tzinfo=UTC)) as watch:
        watch.note_call('1.1')
        await until(lambda: len(taken.annotations) == 19)


async def test_earlier_annotations_are_sent_on_request(path: Path) -> None:
    """With a date, annotations of a new project count if they were changed after it."""
    studio, taken = Studio({1: [(OWN, 'm 1.0')]}), Taken()
    for second in range(4):
        studio.annotate(1, second, second)
    async with watching(studio, path, taken, begin=datetime(2026, 11, 28, 12, 0, 1, tzinfo=UTC)) as watch:
        watch.note_call('1.1')
        await until(lambda: len(taken.annotations) == 2)
    assert taken.annotations == [2, 3]


async def test_a_project_must_name_the_node(path: Path) -> None:
    """A call alone makes no project known: Label Studio must call the node when it lists the backends. Such a project
    is asked for again after a call, but not at each."""
    studio, taken = Studio({1: [('http://other', 'theirs 1.0')], 2: [(OWN, 'm 1.0')]}), Taken()
    async with watching(studio, path, taken) as watch:
        for forged in ('1.5', '1.5', '3.5', 'x', '', None, True, -1, '0', '9' * 40, ['1'], '1e3'):
            watch.note_call(forged)
        watch.note_call('2.5')
        await until(lambda: 2 in KnownProjects(path))
        for _ in range(50):
            watch.note_call('1.5')
            await asyncio.sleep(0.002)
        assert studio.asked.count(3) == 1
        assert 1 < studio.asked.count(1) < 10
        assert watch.about()['known'] == 1
        del studio.backends[2]
        await until(lambda: 2 not in KnownProjects(path))


async def test_titles_that_are_versions_follow_the_model(path: Path) -> None:
    """After a switch the backend gets the new version with its credentials; other backends and titles by hand stay."""
    studio = Studio({1: [(OWN, 'm 1.0'), ('http://other', 'm 1.0')], 2: [(OWN, 'by hand')], 3: [(OWN, 'old 1.0')]})
    studio.predictions[3] = ['old 1.0']
    async with watching(studio, path, seconds=0) as watch:
        for number in (1, 2, 3):
            watch.note_call(f'{number}.1')
        await until(lambda: len(KnownProjects(path)) == 3)
        assert [body['project'] for body in studio.renamed] == [3]
        studio.version = 'm 2.0'
        watch.check_all()
        await until(lambda: len(studio.renamed) == 3)
        watch.check_all()
        asked = len(studio.asked)
        await until(lambda: len(studio.asked) >= asked + 3)
    assert [backend['title'] for backend in studio.backends[1]] == ['m 2.0', 'm 1.0']
    assert (studio.backends[2][0]['title'], studio.backends[3][0]['title']) == ('by hand', 'm 2.0')
    credentials = {'auth_method': 'BASIC_AUTH', 'basic_auth_user': 'ann', 'basic_auth_pass': 'secret'}
    assert {'project': 1, 'url': OWN, 'title': 'm 2.0'} | credentials in studio.renamed
    assert len(studio.renamed) == 3


OTHER = 'http://second:8004'


@pytest.mark.parametrize(
    ('host', 'opened'),
    [
        ('node:8004', []),
        ('NODE:8004', ['node:8004']),  # annotators open tasks meanwhile
        ('behind-a-proxy', []),
    ],
)
async def test_only_the_own_backend_is_renamed(path: Path, host: str, opened: list[str]) -> None:
    """Two nodes with the same model are backends of a project: each renames its own, in any order."""
    studio = Studio({1: [(OTHER, 'm 1.0'), (OWN, 'm 1.0')], 2: [(OWN, 'm 1.0'), (OTHER, 'm 1.0')]})
    studio.serves_all, studio.host, studio.opened = True, host, opened
    studio.predictions = {1: ['m 1.0'], 2: ['m 1.0']}
    studio.version = 'm 2.0'
    async with watching(studio, path) as watch:
        for number in (1, 2):
            watch.note_call(f'{number}.1')
        await until(lambda: len(studio.renamed) == 2)
        asked = len(studio.asked)
        await until(lambda: len(studio.asked) >= asked + 4)
    titles = {number: {one['url']: one['title'] for one in studio.backends[number]} for number in (1, 2)}
    assert titles == {number: {OWN: 'm 2.0', OTHER: 'm 1.0'} for number in (1, 2)}
    assert len(studio.renamed) == 2


async def test_no_backend_is_renamed_if_the_own_one_is_not_known(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the calls to the node are for no single backend, one line says so, and all titles stay."""
    studio = Studio({1: [(OWN, 'm 1.0'), (OTHER, 'm 1.0')]})
    studio.serves_all, studio.version, studio.predictions = True, 'm 2.0', {1: ['m 1.0']}
    studio.host = 'second:8004'
    async with watching(studio, path) as watch:
        watch.note_call('1.1')
        await until(lambda: len(studio.asked) >= 4)
    assert studio.renamed == []
    (line,) = [text for text in caplog.messages if 'not clear which of them' in text]
    assert line.endswith('wholebody labelstudio init --project 1')


@pytest.mark.parametrize('year', ['1999', '2099'])
async def test_the_clock_of_the_node_does_not_matter(path: Path, year: str) -> None:
    """Annotations count by Label Studio's own times, also if its clock is decades off."""
    studio, taken = Studio({1: [(OWN, 'm 1.0')]}), Taken()
    studio.annotate(1, 11, 1)
    studio.annotate(1, 12, 2)
    for task in studio.tasks[1]:
        for dated in (task, *task['annotations']):
            dated['updated_at'] = dated['updated_at'].replace('2026', year)
    later = studio.tasks[1].pop()
    async with watching(studio, path, taken) as watch:
        watch.note_call('1.1')
        await until(lambda: 1 in KnownProjects(path))
        studio.tasks[1].append(later)
        await until(lambda: taken.annotations == [12])


async def test_a_connection_is_not_missed_because_it_is_still_being_made(path: Path) -> None:
    """Label Studio calls before and after it stores a connection; the second call leads to a check, too."""
    studio, taken = Studio({1: []}), Taken()
    async with watching(studio, path, taken) as watch:
        watch.note_call('1.1')
        await until(lambda: studio.asked == [1])
        await asyncio.sleep(0.01)
        studio.backends[1] = [{'id': 10, 'url': OWN, 'title': 'm 1.0'}]
        watch.note_call('1.1')
        await until(lambda: 1 in KnownProjects(path))


async def test_a_call_during_a_check_is_not_lost(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call while the node reads a list of backends that is too old leads to another check."""
    studio = Studio({1: [('http://other', 'theirs 1.0')]})
    listed = studio.get_json

    async def while_connecting(url: str, *, project: int) -> Any:
        found = list(await listed(url, project=project))
        if studio.asked == [1]:
            studio.backends[1] = [{'id': 10, 'url': OWN, 'title': 'm 1.0'}]
            studio.call('1.1', studio.host)
            return []
        return found

    monkeypatch.setattr(studio, 'get_json', while_connecting)
    async with watching(studio, path, Taken()) as watch:
        watch.note_call('1.1')
        await until(lambda: 1 in KnownProjects(path))


@pytest.mark.parametrize('seconds', [0, 0.02])
async def test_a_title_that_label_studio_restores_is_changed_again(
    path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    """A rename counts only once Label Studio lists it: a health check at the same time stores the old title again."""
    studio = Studio({1: [(OWN, 'm 1.0')]})
    rename = studio.request

    async def with_a_health_check(method: str, url: str, *, json: Json) -> None:
        await rename(method, url, json=json)
        if len(studio.renamed) <= 2:
            studio.backends[1][0]['title'] = 'm 1.0'

    monkeypatch.setattr(studio, 'request', with_a_health_check)
    async with watching(studio, path, seconds=seconds) as watch:
        watch.note_call('1.1')
        await until(lambda: 1 in KnownProjects(path) and KnownProjects(path).keep(1).titles == ['m 1.0'])
        studio.version = 'm 2.0'
        watch.check_all()
        await until(lambda: len(studio.renamed) == 3)
    assert studio.backends[1][0]['title'] == 'm 2.0'


async def test_projects_that_fail_do_not_delay_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Projects that Label Studio answers with errors, or without a call, wait by themselves, however many there are."""
    studio, taken = Studio({number: [(OWN, 'm 1.0')] for number in range(1, 9)}), Taken()
    async with watching(studio, path, taken) as watch:
        for number in studio.backends:
            watch.note_call(f'{number}.1')
        await until(lambda: len(KnownProjects(path)) == 8)
    monkeypatch.setattr(project_watch, '_RETRY_SECONDS', 0.2)
    studio.broken = {1, 2, 3, 4}
    studio.backends[5] = studio.backends[6] = []
    studio.annotate(7, 70, 5)
    async with watching(studio, path, taken) as watch:
        await until(lambda: taken.annotations == [70])
        studio.annotate(8, 80, 6)
        await until(lambda: taken.annotations == [70, 80])
        await until(lambda: studio.asked.count(7) > studio.asked.count(5) + 5)
        assert watch.about()['error'].startswith('project ')
        studio.broken.clear()
        await until(lambda: watch.about()['error'] is None)


async def test_an_outage_is_reported_and_waited_for(path: Path) -> None:
    """While Label Studio is down, the watch reports it and tries a few projects only; afterwards it goes on."""
    studio, taken = Studio({number: [(OWN, 'm 1.0')] for number in range(1, 9)}), Taken()
    async with watching(studio, path, taken) as watch:
        for number in studio.backends:
            watch.note_call(f'{number}.1')
        await until(lambda: len(KnownProjects(path)) == 8)
    studio.is_down = True
    studio.asked.clear()
    studio.annotate(8, 80, 5)
    async with watching(studio, path, taken, seconds=1000) as watch:
        await until(lambda: watch.about()['error'])
        assert watch.about()['error'].endswith('it does not answer')
        assert len(studio.asked) <= 6
        studio.is_down = False
        await until(lambda: taken.annotations == [80])
        await until(lambda: watch.about() == {'known': 8, 'error': None})
