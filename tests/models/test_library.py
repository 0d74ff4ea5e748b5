"""The models that a user may choose from."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.support.packages import make_package
from detector.engine.verification import verify
from detector.errors import InvalidRequest, NotFound
from detector.models.catalogue import read_catalogue, rtmlib_file
from detector.models.library import ModelLibrary, PullRequest
from detector.models.package import ModelPackage
from detector.models.store import ModelStore
from tests.support.file_server import FileServer
from tests.support.published_models import catalogue_of, published_networks

ENTRIES: dict[str, dict[str, Any]] = {
    'small': {'version': '1.0.1', 'licence': 'MIT', 'ap': 50.0, 'ap_source': 'a table'},
    'large': {'version': '1.0.2'},
}


@pytest.fixture
def servers() -> Iterator[tuple[FileServer, FileServer]]:
    with published_networks() as running:
        yield running


@pytest.fixture
def library(tmp_path: Path, servers: tuple[FileServer, FileServer]) -> ModelLibrary:
    return ModelLibrary(ModelStore(tmp_path / 'data'), catalogue_of(tmp_path, servers, entries=ENTRIES))


async def test_the_available_models_say_what_is_on_this_machine(
    library: ModelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts come from the catalogue; the flags follow downloads, rtmlib's cache, installation and selection."""
    monkeypatch.setenv('TORCH_HOME', str(tmp_path / 'torch'))
    small, large = library.available()
    assert (small.mode, small.licence, small.ap, small.ap_source, small.megabytes) == (
        'small',
        'MIT',
        50,
        'a table',
        None,
    )
    assert (large.licence, large.ap) == ('', None)
    assert not any((small.downloaded, small.in_rtmlib_cache, small.installed, small.current))
    for network in read_catalogue(tmp_path / 'catalogue.json')['small'].networks:
        file = rtmlib_file(network)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    assert library.available()[0].in_rtmlib_cache
    await library.pull(PullRequest(mode='small'), verify=verify)
    small, large = library.available()
    assert (small.downloaded, small.installed, small.current) == (True, True, False)
    assert (large.downloaded, large.installed) == (True, False)
    library.use('small')
    assert library.available()[0].current


async def test_two_published_models_are_installed_together(library: ModelLibrary) -> None:
    """Each model of the catalogue has its own version, so that one pull does not replace another."""
    for mode in ('small', 'large'):
        await library.pull(PullRequest(mode=mode), verify=verify)
    assert [(model.name, model.version, model.current) for model in library.installed()] == [
        ('small', '1.0.1', False),
        ('large', '1.0.2', False),
    ]
    assert all(model.bytes > 100_000 for model in library.installed())
    assert library.use('large').version == '1.0.2'
    assert library.use('1.0.1').name == 'small'
    assert library.use('large 1.0.2').name == 'large'
    assert [model.current for model in library.installed()] == [False, True]


async def test_two_processes_pull_the_same_model(
    library: ModelLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While one process installs a downloaded model, another one may pull it too; each has a package of its own."""
    other = ModelLibrary(ModelStore(tmp_path / 'data'), tmp_path / 'catalogue.json')
    add, archives = ModelStore.add, []

    def adding(store: ModelStore, archive: Path, **options: Any) -> ModelPackage:
        archives.append(archive)
        if len(archives) == 1:
            asyncio.run(other.pull(PullRequest(mode='small'), verify=verify))
        return add(store, archive, **options)

    monkeypatch.setattr(ModelStore, 'add', adding)
    assert (await library.pull(PullRequest(mode='small'), verify=verify)).version == '1.0.1'
    assert len(set(archives)) == 2
    assert not any(archive.exists() for archive in archives)
    assert library.use('small').version == '1.0.1'


async def test_a_pull_overwrites_no_other_model(
    library: ModelLibrary, tmp_path: Path, servers: tuple[FileServer, FileServer]
) -> None:
    """If another model has the version of the catalogue, the pull is refused before anything is downloaded."""
    library.store.add(make_package(tmp_path / 'mine.zip', version='1.0.1', name='mine'))
    with pytest.raises(InvalidRequest, match=r'mine is installed as version 1\.0\.1.*model remove 1\.0\.1'):
        await library.pull(PullRequest(mode='small'), verify=verify)
    assert servers[0].ranges == []
    await library.pull(PullRequest(mode='small'), tmp_path / 'small.zip', verify=verify)  # installs nothing
    assert library.find('1.0.1').name == 'mine'


def test_what_is_not_installed_is_named_with_the_remedy(library: ModelLibrary, tmp_path: Path) -> None:
    """An unknown name lists the installed models, one of the catalogue its command, an ambiguous one the versions."""
    with pytest.raises(NotFound, match='nothing is not installed; installed: no model'):
        library.use('nothing')
    with pytest.raises(NotFound, match='run `wholebody model pull small`'):
        library.use('small')
    for version in ('2.0', '2.1'):
        library.store.add(make_package(tmp_path / f'{version}.zip', version=version, name='mine'))
    with pytest.raises(InvalidRequest, match=r'mine is installed in the versions 2\.0, 2\.1'):
        library.use('mine')
    with pytest.raises(NotFound, match=r'installed: mine 2\.0, mine 2\.1'):
        library.remove('9.9')


def test_the_current_and_the_serving_model_are_not_removed(library: ModelLibrary, tmp_path: Path) -> None:
    """A removed model is gone from the disk, also if it is damaged; the current and the serving one stay."""
    for version in ('2.0', '2.1', '2.2'):
        library.store.add(make_package(tmp_path / f'{version}.zip', version=version, name='mine'))
    library.use('2.0')
    with pytest.raises(InvalidRequest, match=r'mine 2\.0 is the current model; use another one first'):
        library.remove('2.0')
    with pytest.raises(InvalidRequest, match=r'mine 2\.1 is served by the running node'):
        library.remove('2.1', serving='2.1')
    (library.store.folder('2.1') / 'model.json').write_text('{')
    assert 'model.json' in str(library.find('2.1').error)
    assert library.remove('2.1').bytes > 100_000
    assert library.store.versions() == ['2.0', '2.2']
    (library.store.folder('2.0')).rename(tmp_path / 'gone')
    assert [model.current for model in library.installed()] == [False], 'the current model is missing'


def test_an_embedded_model_is_current_until_one_is_installed(
    library: ModelLibrary, starter: list[Path], tmp_path: Path
) -> None:
    """The embedded models are listed with their role, apart from the installed ones; listing builds none of them."""
    assert [(model.name, model.role) for model in library.embedded('starter')] == [
        ('starter', 'embedded'),
        ('test-card', 'embedded'),
    ]
    for mode, expected in (('starter', [True, False]), ('balanced', [True, False]), ('test-card', [False, True])):
        assert [model.current for model in library.embedded(mode)] == expected
    library.store.install(make_package(tmp_path / 'p.zip', version='2.0'), verify=verify)
    assert not any(model.current for model in library.embedded('starter'))
    assert starter == []
