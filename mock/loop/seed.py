"""Initial content of a mock Learning Loop, and generated projects."""

import json
import tempfile
import uuid
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from detector.models.embedded import EXAMPLE_CARD
from detector.models.package import MODEL_FORMAT, categories
from detector.models.packing import Identity
from detector.pose import images

from .defaults import ORGANIZATION, PROJECT, VERSION
from .project import Project, write
from .store import LoopStore

_MARKER: Final = 'seeded'


def seed_once(store: LoopStore) -> None:
    """Seed a new folder, or one whose seeding was interrupted."""
    marker = store.folder / _MARKER
    if marker.exists():
        return
    if not any(project.state.models for project in store.projects()):
        for project in store.projects():
            store.delete(project.state.organization, project.state.project)
        seed(store)
    write(marker, b'')


def seed(store: LoopStore) -> Project:
    """Create the first project, with the test card model as deployment target."""
    project = store.create(ORGANIZATION, PROJECT, categories())
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / 'package.zip'
        archive.write_bytes(_test_card_package())
        model = project.add_model(archive, model_format=MODEL_FORMAT, version=VERSION)
    project.set_target(model_id=model.id)
    return project


@cache
def _test_card_package() -> bytes:
    from mock.test_card.build import build_package  # imports onnx, which a seeded mock does not need

    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / 'package.zip'
        build_package(archive, identity=Identity(version=VERSION, organization=ORGANIZATION, project=PROJECT))
        return archive.read_bytes()


def generate(
    store: LoopStore,
    organization: str,
    name: str,
    *,
    images: Mapping[str, int],
    categories: Mapping[str, int],
    trainings: int,
    tags: int,
) -> Project:
    """Create a project for tests.

    :param images: number of images by state.
    :param categories: number of categories by type.
    :param trainings: number of trainings; each has one model.
    :param tags: number of different tags; the images get them in turn.
    :raises Conflict: the project exists already.
    """
    project = store.create(organization, name, _generated_categories(categories))
    states = [state for state, count in images.items() for _ in range(count)]
    for index, state in enumerate(states):
        metadata = {'state': state, 'tags': [f'tag_{index % tags}'] if tags else [], 'source': 'generator'}
        project.add_image(_card(), metadata, name=f'generated_{index}', size=_card_size())
    for training in range(1, trainings + 1):
        _add_mocked_model(project, str(training))
    if project.state.models:
        project.set_target(model_id=project.state.models[-1].id)
    return project


def _generated_categories(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {'id': str(uuid.uuid4()), 'name': f'{kind}_category_{index + 1}', 'type': kind, 'color': '#ffe119'}
        for kind, count in counts.items()
        for index in range(count)
    ]


def _add_mocked_model(project: Project, training: str) -> None:
    """Add a model as the tests of learning_loop_node expect it: two text files and model.json."""
    files = {
        'file_1.txt': 'content of file one',
        'file_2.txt': 'content of file two',
        'model.json': json.dumps({'categories': project.state.categories, 'resolution': 800}),
    }
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / 'mocked.zip'
        with zipfile.ZipFile(archive, 'w') as target:
            for name, content in files.items():
                target.writestr(name, content)
        project.add_model(archive, model_format='mocked', training=training)


@cache
def _card() -> bytes:
    return EXAMPLE_CARD.read_bytes()


@cache
def _card_size() -> tuple[int, int]:
    height, width = images.decode_image(_card()).shape[:2]
    return width, height
