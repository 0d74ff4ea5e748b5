"""README and docs/ agree with the tree: lengths, links, paths, commands, settings."""

import ast
import json
import re
import shlex
import tomllib
from functools import partial
from pathlib import Path

import pytest
import typer
from pydantic import AliasChoices

from benchmarks.support.processes import PROJECT
from detector import PoseEngine, read_image, service
from detector.api import packets
from detector.cli.main import app
from detector.engine import pose_engine, thresholds
from detector.models.catalogue import read_catalogue
from detector.models.embedded import EXAMPLE_CARD
from detector.models.package import Detector, Estimator, Wholebody
from detector.node import connections
from detector.outbox import collector, files, outbox, relevance
from detector.pose import similarity
from detector.serving import decoding, first_model, recovery
from detector.settings import Settings, environment_name
from detector.system.shutdown_budget import ShutdownBudget
from mock.loop.commands import app as mock_app

README = PROJECT / 'README.md'
DOCS = PROJECT / 'docs'
PAGES = sorted(DOCS.rglob('*.md'))
DOCUMENTS = [README, *PAGES]


def _read(path: str) -> str:
    return (DOCS / path).read_text()


def _code(document: Path, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', document.read_text(), re.MULTILINE | re.DOTALL)


def test_the_readme_is_short_and_opens_with_the_two_commands() -> None:
    """README has at most 150 lines, and shows a picture and both commands before the first section."""
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    head = text[: text.index('\n## ')]
    assert head.index('![') < head.index('uv run wholebody serve') < head.index('uv run pytest')


def test_the_links_of_the_readme_lead_to_files() -> None:
    """Each relative link in README leads to a file; MkDocs checks the links in docs/."""
    links = re.findall(r'\]\((?!https?:)([^)#]+)', README.read_text())
    assert len(links) > 20
    for link in links:
        assert (PROJECT / link).is_file(), link


def test_pictures_are_small_and_used() -> None:
    """Each picture has less than 300 kB and is used by a document."""
    text = ''.join(document.read_text() for document in DOCUMENTS)
    pictures = sorted((DOCS / 'pictures').iterdir())
    assert len(pictures) >= 3
    for picture in pictures:
        assert picture.stat().st_size < 300_000
        assert f'pictures/{picture.name})' in text


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_every_path_in_a_document_exists(document: Path) -> None:
    """Each path of the tree in backticks exists."""
    folders = '|'.join(path.name for path in PROJECT.iterdir() if path.is_dir() and not path.name.startswith('.'))
    for path in re.findall(rf'`((?:{folders})/[\w./-]*)`', document.read_text()):
        assert path.startswith(('outbox/', 'kitchen/')) or (PROJECT / path).exists(), path


def test_the_architecture_names_every_room() -> None:
    """Each folder and module directly below detector/ has a row in the architecture page."""
    text = _read('explanation/architecture.md')
    for path in (PROJECT / 'detector').iterdir():
        if path.is_dir() and (path / '__init__.py').is_file():
            assert f'| `detector/{path.name}/` | ' in text
        elif path.suffix == '.py' and not path.name.startswith('__'):
            assert f'| `detector/{path.name}` | ' in text


def test_the_architecture_names_the_layers_that_are_enforced() -> None:
    """The page lists the layers in the order of import-linter's contract, without rooms that do not exist yet."""
    contracts = tomllib.loads((PROJECT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts']
    (layers,) = [contract['layers'] for contract in contracts if contract['id'] == 'layers']
    rooms = [[room.strip() for room in layer.split('|') if '(' not in room] for layer in layers]
    lines = _code(DOCS / 'explanation' / 'architecture.md', 'text')[-1].splitlines()
    assert lines == [', '.join(layer) for layer in rooms if layer]


def test_the_architecture_answers_questions_with_files() -> None:
    """Each question of the architecture page has an answer that names a module, and each question is asked once."""
    section = _read('explanation/architecture.md').partition('## Questions')[2].partition('\n## ')[0]
    rows = [row.strip('| ').split(' | ') for row in re.findall(r'^\| .*$', section, re.MULTILINE)[1:]]
    assert len({question for question, _ in rows}) == len(rows) > 10
    for question, answer in rows:
        assert question.endswith('?'), question
        assert re.search(r'`detector/[\w/]+\.py`', answer), question


def test_the_sample_answer_is_what_the_engine_answers(engine: PoseEngine) -> None:
    """The tutorial shows the beginning of the answer of `/poses` to the test card."""
    (sample,) = _code(DOCS / 'tutorials' / 'test-card.md', 'json')
    (shown,) = json.loads(sample.strip().removesuffix(', …') + ']}]}')['poses']
    found = engine.poses(read_image(EXAMPLE_CARD))[0].to_json()
    close = partial(pytest.approx, rel=1e-4, abs=2e-4)  # runtimes may round the last digit differently
    assert shown['keypoints']
    assert shown['box'] == close(found['box'])
    assert shown['confidence'] == close(found['confidence'])
    for one, other in zip(shown['keypoints'], found['keypoints'], strict=False):
        assert one.pop('name') == other.pop('name')
        assert one == close(other)


_BLOCKING = re.compile(r'wholebody (mock-loop )?serve|mkdocs serve|docker compose up|docker run|label-studio start')


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_a_command_that_blocks_ends_its_block(document: Path) -> None:
    """A server runs until it is stopped, so commands after it need a block and a terminal of their own."""
    for block in _code(document, 'bash'):
        *others, _ = block.replace('\\\n', ' ').splitlines()
        for line in others:
            assert not _BLOCKING.search(line.partition('#')[0]), line


def _commands() -> list[tuple[Path, list[str]]]:
    """Return each call of `wholebody` in the shell examples, with its document."""
    calls = []
    for document in DOCUMENTS:
        for block in _code(document, 'bash'):
            for line in block.replace('\\\n', ' ').splitlines():
                words = shlex.split(line, comments=True)
                if 'wholebody' in words and 'docker' not in words:
                    calls.append((document, words[words.index('wholebody') + 1 :]))
    return calls


def test_every_command_in_a_document_exists() -> None:
    """Each command in a document exists with all of its options."""
    calls = _commands()
    assert len(calls) > 40
    for document, words in calls:
        command = typer.main.get_command(app)
        path = ['wholebody']
        while words and hasattr(command, 'commands') and not words[0].startswith('-'):
            assert words[0] in command.commands, f'{document.name}: {" ".join(path)} has no command {words[0]}'
            path.append(words[0])
            command = command.commands[words.pop(0)]
            if path[-1] == 'mock-loop':
                command = typer.main.get_command(mock_app)
        known = {option for parameter in command.params for option in parameter.opts} | {'--help', '--version'}
        for word in words:
            if word.startswith('-'):
                assert word in known, f'{document.name}: {" ".join(path)} has no option {word}'


_OTHER_VARIABLES = {
    # variables of Label Studio
    'USE_DEFAULT_BANNED_SUBNETS',
    'ML_BLOCK_LOCAL_IP',
    'SSRF_PROTECTION_ENABLED',
    'LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED',
    'LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT',
    # variables of Docker and Compose
    'PYTHON_IMAGE',
    'NODE_CPUS',
    'NODE_MEMORY',
    'LABEL_STUDIO_MEMORY',
    # variables of other programs
    'OMP_NUM_THREADS',
    'HTTP_PROXY',
    'HTTPS_PROXY',
    'ALL_PROXY',
    'NO_PROXY',
    'TYPE_CHECKING',
}


def test_every_variable_in_a_document_is_a_setting() -> None:
    """Each variable in a document is a setting, or one of another program that is listed here and occurs."""
    known = {environment_name(field) for field in Settings.model_fields}
    for info in Settings.model_fields.values():
        if isinstance(info.validation_alias, AliasChoices):
            known |= {str(alias) for alias in info.validation_alias.choices}
    named = {name for document in DOCUMENTS for name in re.findall(r'`([A-Z]+(?:_[A-Z]+)+)\b', document.read_text())}
    named |= {name for document in DOCUMENTS for name in re.findall(r'\b([A-Z]+(?:_[A-Z]+)+)=', document.read_text())}
    assert len(named & known) > 30
    assert named - known == _OTHER_VARIABLES


def test_the_fields_of_a_package_are_documented() -> None:
    """The page names each field of `model.json` that the node reads."""
    text = _read('reference/model-packages.md')
    for model in (Wholebody, Detector, Estimator):
        for field in model.model_fields:
            assert f'`{field}`' in text, field


@pytest.mark.parametrize(
    ('page', 'words', 'value'),
    [
        ('explanation/relevance.md', 'confidence below {}', similarity.ABSENT),
        ('explanation/relevance.md', 'at most {} of them per image', pose_engine.MAX_UNCERTAIN),
        ('explanation/confidences.md', '| 4 | {} |', thresholds.DEFAULT_PERSON),
        ('explanation/confidences.md', '`presence_threshold` of the package, {} by default', similarity.ABSENT),
        (
            'explanation/confidences.md',
            'The published models state {}',
            read_catalogue()['balanced'].detector.score_threshold,
        ),
        ('reference/model-packages.md', 'up to {}, default', similarity.PRESENT),
        ('explanation/relevance.md', 'IoU {}', relevance.SAME_PLACE_IOU),
        ('explanation/relevance.md', 'OKS of the body {}', relevance.SAME_POSTURE_OKS),
        ('explanation/relevance.md', 'up to {} postures', relevance.MAX_POSTURES),
        ('explanation/relevance.md', 'may send {} images at once', relevance.BURST),
        ('explanation/relevance.md', 'one every {:g} seconds', relevance.REFILL_SECONDS),
        ('explanation/relevance.md', 'the best {} poses', relevance.MAX_POSES),
        ('explanation/relevance.md', 'up to {} poses per camera', relevance.MAX_REMEMBERED),
        ('explanation/relevance.md', 'up to {} cameras', relevance.MAX_CAMERAS),
        ('explanation/outbox.md', 'Up to {} images go in one request', outbox.BATCH_IMAGES),
        ('explanation/outbox.md', 'A request may take {:g} seconds', outbox.BATCH_SECONDS),
        ('explanation/outbox.md', 'or up to {:g} after', outbox.MAX_BATCH_SECONDS),
        ('explanation/outbox.md', 'The last {} refused images', files.MAX_SET_ASIDE),
        ('explanation/outbox.md', 'cut a running request after {:g} seconds', outbox.STOP_SECONDS),
        ('how-to/operate.md', 'Running requests have {:g} seconds', ShutdownBudget().requests),
        ('how-to/operate.md', 'still arriving has {:g} second', ShutdownBudget().bodies),
        ('how-to/operate.md', 'The outbox cuts its request after {:g} seconds', ShutdownBudget().upload),
        ('how-to/operate.md', 'Up to {} images wait for the disk', collector.MAX_SAVING),
        ('how-to/operate.md', 'after {:g} seconds, then after twice the time', recovery.FIRST_PAUSE_SECONDS),
        ('how-to/models.md', 'tries again after {:g} seconds', first_model.FIRST_PAUSE_SECONDS),
        ('how-to/models.md', 'up to {:g} minutes', first_model.MAX_PAUSE_SECONDS / 60),
        ('how-to/limits.md', '{:.0f} million pixels', decoding.ROOM_PIXELS / 1e6),
        ('how-to/limits.md', '{} images in one `batch_detect`', service.MAX_BATCH),
        ('how-to/limits.md', '{:,} values in it', packets.MAX_EVENT_VALUES),
        ('how-to/limits.md', "{:.0f} KiB for a request's line and header", connections.MAX_HEADER_BYTES / 1024),
        ('how-to/limits.md', '{:g} seconds from the opening of a connection', connections.HEADER_SECONDS),
        ('how-to/limits.md', '{} requests that wait on one connection', connections.MAX_PIPELINED),
    ],
)
def test_figures_are_those_of_the_code(page: str, words: str, value: float) -> None:
    """Figures in the documents equal the constants in the code."""
    assert words.format(value) in ' '.join(_read(page).split())


def test_a_shutdown_takes_no_longer_than_documented() -> None:
    """The documented duration of a shutdown is the budget, rounded up to whole seconds."""
    assert 7 < ShutdownBudget().total < 8
    assert 'status 0 within 8 seconds' in _read('how-to/operate.md')


@pytest.mark.parametrize('document', DOCUMENTS, ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_python_examples_import_what_exists(document: Path) -> None:
    """Examples are Python, and their imports from `detector` work."""
    for block in _code(document, 'python'):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('detector'):
                exec(compile(ast.Module([node], []), str(document), 'exec'), {})
