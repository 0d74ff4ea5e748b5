"""`wholebody labelstudio init` and `import` as processes with a real Label Studio."""

import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.support.cards import make_card
from benchmarks.support.label_studio_api import Json, LabelStudio, Project
from benchmarks.support.label_studio_server import running_label_studio
from benchmarks.support.processes import PROJECT, NodeProcess, clean_environment, free_port, running_node
from detector.label_studio.labels.config import generate
from detector.pose import images

pytestmark = pytest.mark.integration

CARD = images.encode_jpeg(make_card(), quality=80)
VERSION = 'test-card 0.0'
"""Version of the embedded package."""
AUTH = {'BASIC_AUTH_USER': 'ann', 'BASIC_AUTH_PASS': 'pässword: 1'}


@pytest.fixture(scope='module')
def studio(label_studio: LabelStudio) -> LabelStudio:
    return label_studio


@pytest.fixture(scope='module')
def node(tmp_path_factory: pytest.TempPathFactory, studio: LabelStudio) -> Iterator[NodeProcess]:
    settings: dict[str, Any] = {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.token}
    with running_node(tmp_path_factory.mktemp('node'), **settings) as running:
        yield running


@pytest.fixture(scope='module')
def guarded_node(tmp_path_factory: pytest.TempPathFactory, studio: LabelStudio) -> Iterator[NodeProcess]:
    """Start a node with basic auth."""
    settings: dict[str, Any] = {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.token, **AUTH}
    with running_node(tmp_path_factory.mktemp('guarded'), **settings) as running:
        yield running


class Command:
    """Runs `wholebody labelstudio` in a folder without `.env`."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._environment = clean_environment(**{'PYTHONPATH': str(PROJECT), 'DATA_FOLDER': folder / 'data'} | settings)

    def start(self, *arguments: Any) -> 'subprocess.Popen[str]':
        return subprocess.Popen(
            [sys.executable, '-m', 'detector', 'labelstudio', *map(str, arguments)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def succeed(self, *arguments: Any) -> str:
        """Return the output of a command that succeeds."""
        process = self.start(*arguments)
        printed, said = process.communicate(timeout=100)
        assert process.returncode == 0, printed + said
        return printed

    def fail(self, *arguments: Any, code: int = 1) -> str:
        """Return output and errors of a command that fails."""
        process = self.start(*arguments)
        printed, said = process.communicate(timeout=100)
        assert process.returncode == code, printed + said
        assert 'Traceback' not in said
        return printed + said


@pytest.fixture
def command(tmp_path: Path, studio: LabelStudio) -> Command:
    return Command(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=studio.token)


def initialized(command: Command, studio: LabelStudio, *arguments: Any) -> tuple[Project, str]:
    """Return the project that `init` names, and the output."""
    printed = command.succeed('init', *arguments)
    address = next(line for line in printed.splitlines() if line.startswith(studio.url))
    return Project(studio, int(address.split('/')[4])), printed


def cards(folder: Path, count: int) -> list[Path]:
    """Make distinct image files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f'card {number} ü.jpg' for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(CARD + bytes([number // 256, number % 256]))  # readers ignore what follows the end of a JPEG
    return paths


def digests(paths: Sequence[Path]) -> list[str]:
    return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


def task_digests(project: Project) -> list[str]:
    """Return the digests of all tasks."""
    found: list[str] = []
    while True:
        listed = {'project': project.id, 'page_size': 100, 'page': 1 + len(found) // 100}
        answer = project.server.request('GET', '/api/tasks', params=listed)
        found += [task['meta']['sha256'] for task in answer['tasks']]
        if len(found) >= answer['total']:
            return sorted(found)


def content_of(studio: LabelStudio, task: Json) -> bytes:
    """Return the content of a task's image, fetched with the token."""
    answer = httpx.get(studio.url + task['data']['image'], headers={'Authorization': f'Token {studio.token}'})
    assert answer.status_code == 200
    return answer.content


# ---------------------------------------------------------------- init


def test_a_project_is_made_once_and_uncertainty_sampling_finds_its_predictions(
    command: Command, studio: LabelStudio, node: NodeProcess, tmp_path: Path
) -> None:
    """`init` sets up config, sampling, backend, webhook and model version, and a second run reports no change."""
    arguments = ('--title', 'made once', '--node', node.url)
    project, printed = initialized(command, studio, *arguments)
    assert 'is created' in printed
    assert f'wholebody labelstudio import FOLDER --project {project.id}' in printed
    settings = project.settings()
    assert (settings['title'], settings['sampling']) == ('made once', 'Uncertainty sampling')
    assert settings['label_config'].strip() == generate('skeleton').strip()
    (backend,) = studio.request('GET', '/api/ml', params={'project': project.id})
    assert (backend['title'], backend['state'], backend['is_interactive']) == (VERSION, 'CO', True)
    webhooks = project.webhooks()
    assert [webhook['url'] for webhook in webhooks] == [f'{node.url}/webhook']

    again, printed = initialized(command, studio, *arguments)
    assert again.id == project.id
    assert 'nothing is changed' in printed
    assert project.webhooks() == webhooks
    assert 'is created' not in printed

    command.succeed('import', *cards(tmp_path / 'some', 6), '--project', project.id)
    first, *rest = [int(task['id']) for task in project.tasks()]
    (prediction,) = project.open_task(first)['predictions']
    assert prediction['model_version'] == project.settings()['model_version'] == VERSION
    scores = dict(zip(rest, (0.5, 0.4, 0.01, 0.6, 0.3), strict=True))
    made = [{'task': task, 'score': score, 'model_version': VERSION, 'result': []} for task, score in scores.items()]
    assert project.import_predictions(made) == 5
    for _ in range(5):  # without uncertainty sampling the sixth task would come first only by chance
        assert studio.request('GET', f'/api/projects/{project.id}/next')['id'] == rest[2]


def test_a_guarded_node_gets_its_credentials_from_backend_and_webhook(
    tmp_path: Path, studio: LabelStudio, guarded_node: NodeProcess
) -> None:
    """The node's credentials are set for backend and webhook, a surplus webhook is deleted, and faults show no
    secrets."""
    environment = {'LABEL_STUDIO_URL': studio.url, 'LABEL_STUDIO_API_TOKEN': studio.personal_token()}
    arguments = ('--title', 'guarded', '--node', f'{guarded_node.url}/')
    said = Command(tmp_path, **environment).fail('init', *arguments)
    assert 'set BASIC_AUTH_USER and BASIC_AUTH_PASS' in said
    wrong = Command(tmp_path, **environment, BASIC_AUTH_USER='ann', BASIC_AUTH_PASS='wrong').fail('init', *arguments)
    assert 'set BASIC_AUTH_USER and BASIC_AUTH_PASS' in wrong
    assert 'wrong' not in wrong
    command = Command(tmp_path, **environment, **AUTH)
    project, printed = initialized(command, studio, *arguments)
    assert AUTH['BASIC_AUTH_PASS'] not in printed
    (webhook,) = project.webhooks()
    headers = webhook['headers']
    assert httpx.post(webhook['url'], json={'action': 'PROJECT_UPDATED'}, headers=headers).status_code == 200
    assert httpx.post(webhook['url'], json={'action': 'PROJECT_UPDATED'}).status_code == 401
    surplus = {'project': project.id, 'url': webhook['url'], 'send_payload': True, 'send_for_all_actions': True}
    studio.request('POST', '/api/webhooks', json=surplus)
    assert 'deleted' in initialized(command, studio, *arguments)[1]
    (left,) = project.webhooks()
    assert left['headers'] == headers
    assert 'nothing is changed' in initialized(command, studio, *arguments)[1]


def test_another_node_version_renames_the_backend(command: Command, studio: LabelStudio, node: NodeProcess) -> None:
    """Another version of the node renames the backend, also one with another title or without its webhook."""
    project = studio.create_project(generate('keypoints'), title='by hand')
    project.connect(node.url, title='my backend', interactive=False)
    assert project.settings()['model_version'] == 'my backend'
    studio.request('DELETE', f'/api/webhooks/{project.webhooks()[0]["id"]}/')
    arguments = ('--project', project.id, '--style', 'keypoints', '--node', node.url, '--sampling', 'sequential')
    initialized(command, studio, *arguments)
    assert project.settings()['model_version'] == VERSION
    assert len(project.webhooks()) == 1
    assert 'nothing is changed' in initialized(command, studio, *arguments)[1]


FOREIGN = """<View><Header value="Persons"/><Image name="photo" value="$photo" zoom="true"/>
<RectangleLabels name="who" toName="photo"><Label value="Person" hotkey="p"/><Label value="dog"/></RectangleLabels>
<KeyPointLabels name="joint" toName="photo"><Label value="nose"/><Label value="left_eye"/></KeyPointLabels>
<Choices name="weather" toName="photo"><Choice value="rain"/></Choices></View>"""
FIFTYONE = """<View>
  <Image name="image" value="$image"/>
  <RectangleLabels name="ground_truth" toName="image">
    <Label value="person"/>
  </RectangleLabels>
  <KeyPointLabels name="keypoints" toName="image">
    <Label value="nose"/>
    <Label value="left_wrist"/>
  </KeyPointLabels>
</View>
"""
"""Labeling config in the form of FiftyOne 1.8 (`fiftyone.utils.labelstudio.generate_labeling_config`)."""


def state_of(project: Project) -> Json:
    """Return everything in a project that `init` could change."""
    settings = {name: value for name, value in project.settings().items() if name not in _COUNTERS}
    backends = project.server.request('GET', '/api/ml', params={'project': project.id})
    kept = [{name: backend[name] for name in ('id', 'title', 'url', 'is_interactive')} for backend in backends]
    return {
        'settings': settings,
        'backends': kept,
        'webhooks': project.webhooks(),
        'predictions': project.predictions(),
    }


_COUNTERS = ('finished_task_number', 'queue_total', 'queue_done', 'queue_left')


@pytest.mark.parametrize(
    ('config', 'image'),
    [(generate('keypoints'), 'image'), (FOREIGN, 'photo'), (FIFTYONE, 'image')],
    ids=['keypoints', 'foreign', 'fiftyone'],
)
def test_a_project_that_exists_is_only_connected(
    command: Command, studio: LabelStudio, node: NodeProcess, config: str, image: str, tmp_path: Path
) -> None:
    """`init` connects a project that exists and changes neither its config nor its sampling, also if options describe
    another config; predictions stay visible, and a second run changes nothing at all."""
    title = f'exists {image} {len(config)}'
    project = studio.create_project(config, title=title, sampling='Sequential sampling')
    (task,) = project.import_tasks([{image: 'https://example.com/1.jpg'}])
    made = {'task': task, 'score': 0.5, 'model_version': 'theirs', 'result': []}
    assert project.import_predictions([made]) == 1
    project.change(model_version='theirs')
    before = state_of(project)
    same, printed = initialized(command, studio, '--title', title, '--node', node.url)
    assert same.id == project.id
    assert f'the backend {node.url} is connected' in printed
    connected = state_of(project)
    assert connected['settings'] == before['settings']
    assert connected['predictions'] == before['predictions']
    for arguments in (['--title', title], ['-p', title, '--style', 'skeleton'], ['-p', project.id, '--parts', 'body']):
        _, printed = initialized(command, studio, *arguments, '--node', node.url)
        assert 'nothing is changed' in printed
        assert state_of(project) == connected
    initialized(command, studio, '-p', title, '--no-backend', '--sampling', 'uniform')
    assert project.settings()['sampling'] == 'Uniform sampling'


def test_a_config_is_replaced_only_on_request(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """`--replace-config` says what would be lost, needs `--yes` without a terminal, and refuses a config that does not
    show the images; a project without a config gets one unasked."""
    project = studio.create_project(generate('keypoints'), title='with work')
    region = {
        'from_name': 'bbox',
        'to_name': 'image',
        'type': 'rectanglelabels',
        'value': {'x': 1, 'y': 1, 'width': 9, 'height': 9, 'rotation': 0, 'rectanglelabels': ['person']},
    }
    first, second = project.import_tasks(
        [{'image': 'https://example.com/1.jpg'}, {'image': 'https://example.com/2.jpg'}]
    )
    project.annotate(first, [region])
    studio.request('POST', f'/api/tasks/{second}/drafts', json={'result': [region], 'lead_time': 1})
    made = {'task': first, 'score': 0.5, 'model_version': VERSION, 'result': []}
    assert project.import_predictions([made, made | {'task': second}]) == 2
    arguments = ('--project', 'with work', '--no-backend')

    colourful = re.sub('background="#[0-9a-f]{6}"', 'background="#123456"', generate('keypoints'))
    (tmp_path / 'config.xml').write_text(colourful)
    assert 'nothing is changed' in command.succeed('init', *arguments, '--config', tmp_path / 'config.xml')
    printed = command.succeed('init', *arguments, '--config', tmp_path / 'config.xml', '--replace-config')
    assert 'the appearance of the labeling config is changed' in printed

    said = command.fail('init', *arguments, '--replace-config')
    assert f'project {project.id} "with work" holds 1 annotation, 1 task with drafts and 2 predictions' in said
    assert 'give --yes' in said
    (tmp_path / 'photo.xml').write_text(generate('skeleton').replace('$image', '$photo'))
    said = command.fail('init', *arguments, '--replace-config', '--yes', '--config', tmp_path / 'photo.xml')
    assert f"the tasks of project {project.id} hold 'image' and no 'photo'" in said
    assert project.settings()['label_config'].strip() == colourful.strip()
    assert '--replace-config' in command.fail('init', *arguments, '--yes', code=2)
    for task in (first, second):
        studio.request('DELETE', f'/api/tasks/{task}/')
    assert 'the labeling config is changed' in command.succeed('init', *arguments, '--replace-config', '--yes')
    assert project.settings()['label_config'].strip() == generate('skeleton').strip()

    bare = studio.create_project('<View></View>', title='bare')
    assert 'the labeling config is set' in command.succeed('init', '--title', 'bare', '--no-backend')
    assert bare.settings()['label_config'].strip() == generate('skeleton').strip()
    strange = '<View><Text name="t" value="$t"/><Choices name="c" toName="t"><Choice value="a"/></Choices></View>'
    other = studio.create_project(strange, title='texts only')
    assert 'a labeling config of another kind' in command.fail('init', '--title', 'texts only', '--no-backend')
    assert other.settings()['label_config'] == strange


def test_projects_have_titles(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """Commands take the title of a project; a title of several projects is refused with their numbers, and an unknown
    one with similar titles."""
    project = studio.create_project(generate('skeleton'), title='Kitchen (north) 7')
    paths = cards(tmp_path / 'images', 1)
    assert '1 imported' in command.succeed('import', *paths, '-p', 'Kitchen (north) 7')
    said = command.fail('import', *paths, '-p', 'kitchen')
    assert f'there is no project with this title, but there is "Kitchen (north) 7" ({project.id})' in said
    twins = [studio.create_project(generate('skeleton'), title='Twins').id for _ in range(2)]
    for arguments in (['import', *paths, '-p', 'Twins'], ['init', '--title', 'Twins', '--no-backend']):
        said = command.fail(*arguments)
        assert f'2 projects have the title "Twins": choose one by its number, --project {twins[0]} or' in said


def test_a_label_studio_that_refuses_private_addresses_is_told_how_to_start(tmp_path: Path, node: NodeProcess) -> None:
    """With Label Studio's default settings, `init` explains how to allow private addresses."""
    defaults = {'ML_BLOCK_LOCAL_IP': None, 'SSRF_PROTECTION_ENABLED': None}
    with running_label_studio(tmp_path / 'studio', **defaults) as studio:
        command = Command(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=studio.token)
        said = command.fail('init', '--title', 'refused', '--node', node.url)
        assert 'USE_DEFAULT_BANNED_SUBNETS=false' in said
        assert 'is deleted again' in said
        assert studio.request('GET', '/api/projects/')['results'] == []


def test_what_cannot_work_is_named(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """Faults in address, token, project, node and config are reported with their setting or option."""
    (tmp_path / 'config.xml').write_text('<View><Text name="text" value="$text"/></View>')
    assert '--config' in command.fail('init', '--config', tmp_path / 'config.xml')
    assert '--project 99999: there is no project' in command.fail('init', '--project', 99999)
    silent = f'http://127.0.0.1:{free_port()}'
    said = command.fail('init', '--title', 'no node', '--node', silent)
    assert f'does not reach {silent}' in said
    assert studio.request('GET', '/api/projects/', params={'title': 'no node'})['results'] == []
    existing = studio.create_project(generate('skeleton'), title='not reached')
    before = state_of(existing)
    command.fail(
        'init', '--title', 'not reached', '--node', silent, '--replace-config', '--yes', '--style', 'keypoints'
    )
    assert state_of(existing) == before
    assert '--node' in command.fail('init', '--title', 'no node', '--node', 'http://ann:secret@localhost:8004')
    assert 'is not a node' in command.fail('init', '--title', 'no node', '--node', studio.url)
    missing = Command(tmp_path, LABEL_STUDIO_URL=silent, LABEL_STUDIO_API_TOKEN=studio.token)
    assert f'LABEL_STUDIO_URL={silent}' in missing.fail('init')
    assert 'LABEL_STUDIO_URL' in Command(tmp_path).fail('init', code=2)
    token = 'f' * 40
    wrong = Command(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=token).fail('init')
    assert 'LABEL_STUDIO_API_TOKEN' in wrong
    assert token not in wrong


# ---------------------------------------------------------------- import


def test_a_folder_is_imported_once(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """Repeated, damaged and other files are counted, and the next run adds new ones and wanted subfolders."""
    folder = tmp_path / 'images'
    paths = cards(folder, 3)
    (folder / 'same.JPG').write_bytes(paths[0].read_bytes())
    (folder / 'broken.jpg').write_bytes(CARD[:2000])
    (folder / 'notes.txt').write_text('no image')
    deep = cards(folder / 'deep', 5)
    project = studio.create_project(generate('skeleton'), title='imported once')
    said = command.fail('import', folder, '--project', project.id)
    assert '3 imported, 1 repeated, 1 left out, 1 of other kinds skipped' in said
    assert f'error: {folder / "broken.jpg"}: the image is broken' in said
    assert task_digests(project) == digests(paths)
    tasks = project.tasks()
    assert sorted(hashlib.sha256(content_of(studio, task)).hexdigest() for task in tasks) == digests(paths)
    assert all(task['file_upload'] for task in tasks)
    (folder / 'broken.jpg').unlink()
    printed = command.succeed('import', folder, '--project', f'{studio.url}/projects/{project.id}/data', '--recursive')
    assert '2 imported, 7 there already, 1 of other kinds skipped' in printed
    assert task_digests(project) == digests(deep)


def test_an_import_that_was_killed_goes_on(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """After three kills at different moments, each image is imported once."""
    paths = cards(tmp_path / 'images', 260)
    project = studio.create_project(generate('skeleton'), title='killed')
    counts = []
    for wanted in (1, 60, 160):
        process = command.start('import', tmp_path / 'images', '--project', project.id)
        deadline = time.monotonic() + 60
        while project.settings()['task_number'] < wanted and time.monotonic() < deadline:
            time.sleep(0.01)
        process.kill()
        process.communicate()
        counts.append(project.settings()['task_number'])
    assert 0 < counts[0] < 260, counts
    printed = command.succeed('import', tmp_path / 'images', '--project', project.id)
    assert 'there already' in printed
    assert task_digests(project) == digests(paths)


def test_tasks_that_label_studio_made_twice_are_removed(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """Tasks that Label Studio created twice are removed, except those with annotations or drafts."""
    paths = cards(tmp_path / 'images', 4)
    project = studio.create_project(generate('skeleton'), title='twice')
    command.succeed('import', *paths[:3], '--project', project.id)
    first = project.tasks()
    same = [{'data': task['data'], 'meta': task['meta']} for task in first]
    other = {'data': first[0]['data']}
    *second, foreign = project.import_tasks([*same, other])
    project.annotate(second[1], [])
    studio.request('POST', f'/api/tasks/{second[2]}/drafts', json={'result': [], 'lead_time': 1})
    printed = command.succeed('import', *paths, '--project', project.id)
    assert '1 imported, 3 there already, 3 made twice by Label Studio and removed' in printed
    kept = {task['id'] for task in project.tasks()}
    assert {first[0]['id'], second[1], second[2], foreign} < kept
    assert len(kept) == 5
    assert 'removed' not in command.succeed('import', *paths, '--project', project.id)


def test_an_import_survives_the_end_of_label_studio(tmp_path: Path) -> None:
    """If Label Studio stops during an import, the command says that the next run continues."""
    cards(tmp_path / 'images', 200)
    with running_label_studio(tmp_path / 'studio') as studio:
        command = Command(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=studio.token)
        project = studio.create_project(generate('skeleton'), title='interrupted')
        process = command.start('import', tmp_path / 'images', '--project', project.id)
        deadline = time.monotonic() + 60
        while project.settings()['task_number'] < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 1, said
    assert 'Traceback' not in said
    assert 'run the command again to continue' in said


def test_local_files_are_served_not_uploaded(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """Local files are served by one storage that creates no tasks, and a second run adds none."""
    folder = studio.files / 'registered'
    paths = cards(folder, 2)
    deep = cards(folder / 'deep', 3)[2:]
    project = studio.create_project(generate('skeleton'), title='served')
    arguments = (folder, '-r', '--project', project.id, '--local-files', '--document-root', studio.files)
    assert '3 imported, 2 repeated' in command.succeed('import', *arguments)
    tasks = project.tasks()
    assert all(task['data']['image'].startswith('/data/local-files/?d=registered/') for task in tasks)
    assert sorted(hashlib.sha256(content_of(studio, task)).hexdigest() for task in tasks) == digests([*paths, *deep])
    assert '5 there already' in command.succeed('import', *arguments)
    (storage,) = studio.request('GET', '/api/storages/localfiles', params={'project': project.id})
    assert storage['path'] == str(folder)
    studio.request('POST', f'/api/storages/localfiles/{storage["id"]}/sync')
    assert len(project.tasks()) == 3

    elsewhere = cards(tmp_path / 'elsewhere', 1)
    local = ('--project', project.id, '--local-files', '--document-root')
    assert 'does not lie below' in command.fail('import', *elsewhere, *local, studio.files)
    assert 'LOCAL_FILES_DOCUMENT_ROOT' in command.fail('import', *elsewhere, *local, tmp_path)
    assert 'does not serve' in command.fail('import', *deep, *local, folder)
    (studio.files / 'loose.jpg').write_bytes(CARD)
    assert 'lies directly in the document root' in command.fail('import', studio.files, *local, studio.files)
    linked = tmp_path / 'linked'
    linked.symlink_to(studio.files)
    seen_there = ('--remote-root', studio.files)
    assert 'already' in command.succeed('import', linked / 'registered', *local, linked, *seen_there)


def test_imports_that_cannot_work_are_named(command: Command, studio: LabelStudio, tmp_path: Path) -> None:
    """Faults in config, project, token and files are reported before anything is imported, and a personal token
    works."""
    (path,) = cards(tmp_path / 'images', 1)
    unfit = studio.create_project('<View><Text name="text" value="$text"/></View>', title='texts')
    assert 'wholebody labelstudio init' in command.fail('import', path, '--project', unfit.id)
    assert '--project 99999: there is no project' in command.fail('import', path, '--project', 99999)
    assert '--project nonsense: there is no project with this title' in command.fail(
        'import', path, '--project', 'nonsense'
    )
    os.makedirs(tmp_path / 'empty')
    assert 'there is no image' in command.fail('import', tmp_path / 'empty', '--project', unfit.id)
    (tmp_path / 'a.tif').write_bytes(CARD)
    project = studio.create_project(generate('keypoints').replace('$image', '$photo'), title='tokens')
    said = command.fail('import', tmp_path / 'a.tif', '--project', project.id)
    assert '0 imported, 1 left out' in said
    assert 'its ending is none of' in said
    wrong = Command(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN='a.b.c')
    assert 'LABEL_STUDIO_API_TOKEN' in wrong.fail('import', path, '--project', project.id)
    personal = Command(tmp_path, LABEL_STUDIO_URL=studio.url, LABEL_STUDIO_API_TOKEN=studio.personal_token())
    assert '1 imported' in personal.succeed('import', path, '--project', project.id)
    (task,) = project.tasks()
    assert list(task['data']) == ['photo']
