"""Installed models."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import pytest

from benchmarks.support.packages import altered, make_package
from benchmarks.support.processes import PROJECT, clean_environment, running_node
from detector.engine.pose_engine import PoseEngine
from detector.engine.verification import verify
from detector.errors import FolderInUse, InvalidPackage
from detector.models import package as model_package
from detector.models import store as model_store
from detector.models.package import ModelPackage, OfferedModel, file_sha256, open_package
from detector.models.store import ModelStore, embedded_package, installed_package
from detector.system import durable


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / 'data')


def test_without_an_installed_model_an_embedded_one_is_used(store: ModelStore, starter: list[Path]) -> None:
    """MODE names the embedded model, and stands for the starter if it names a published one."""
    first = store.current_or_embedded('test-card')
    assert store.current() is None
    assert (first.name, first.reported_version) == ('test-card', 'test-card')
    assert store.current_or_embedded('test-card') == first
    assert [folder.name for folder in first.folder.parent.iterdir()] == [first.folder.name]
    assert starter == []
    for mode in ('starter', 'balanced'):
        assert store.current_or_embedded(mode).name == 'starter'


def test_a_damaged_test_card_model_is_unpacked_again(store: ModelStore, caplog: pytest.LogCaptureFixture) -> None:
    """A truncated network and an empty description lead to one warning each, and to a sound model."""
    for file, content in (('pose.onnx', b'half'), ('model.json', b'')):
        (store.embedded('test-card').folder / file).write_bytes(content)
        assert open_package(store.embedded('test-card').folder).name == 'test-card'
    assert caplog.text.count('the test card model is damaged') == 2


def test_the_public_functions_use_the_users_data_folder(
    tmp_path: Path, starter: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a data folder the user's is used; the starter stands for the current model until one is installed."""
    monkeypatch.setattr(model_store, 'default_data_folder', lambda: tmp_path / 'user')
    archive = make_package(tmp_path / 'a.zip')
    for folder in (None, tmp_path / 'other'):
        home = folder or tmp_path / 'user'
        assert open_package(embedded_package(folder)).name == 'test-card'
        assert embedded_package(folder).is_relative_to(home)
        assert installed_package(folder) == home / 'starter'
        store = ModelStore(home)
        store.select(store.add(archive).version)
        assert installed_package(folder) == store.folder('1.0').resolve()
    assert starter == [tmp_path / 'user', tmp_path / 'other']


def test_the_test_card_model_is_unpacked_beside_its_place(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is moved there as a whole, readable for all users; a folder for temporary files is not needed."""
    monkeypatch.setattr(tempfile, 'tempdir', str(store.data_folder / 'missing'))
    folder = store.embedded('test-card').folder
    assert folder.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize('is_overtaken', [True, False])
def test_a_test_card_model_that_cannot_be_put_in_place_leaves_nothing(
    store: ModelStore, monkeypatch: pytest.MonkeyPatch, is_overtaken: bool
) -> None:
    """If another process was faster, its folder is taken; without one, the error is reported."""
    unpack = model_package.unpack_package
    parent = store.embedded('test-card').folder.parent
    (folder,) = parent.iterdir()
    shutil.rmtree(folder)

    def overtaken(archive: Path, target: Path) -> object:
        if is_overtaken:
            shutil.copytree(target, folder)
            return unpack(archive, folder)
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(model_package, 'unpack_package', overtaken)
    if is_overtaken:
        monkeypatch.setattr(Path, 'rename', lambda *_: os.rmdir(parent))  # the place is not empty
        assert store.embedded('test-card').folder == folder
    else:
        with pytest.raises(OSError, match='No space left'):
            store.embedded('test-card')
    assert list(parent.iterdir()) == ([folder] if is_overtaken else [])


def test_a_command_opens_what_it_is_given(store: ModelStore, tmp_path: Path, starter: list[Path]) -> None:
    """A zip is unpacked into the scratch folder, a folder is opened; None means the current or embedded model."""
    scratch = tmp_path / 'scratch'
    scratch.mkdir()
    assert store.open(None, scratch, mode='test-card').name == 'test-card'
    archive = make_package(tmp_path / 'a.zip', name='given')
    package = store.open(archive, scratch, mode='starter')
    assert (package.name, package.folder) == ('given', scratch)
    assert store.open(scratch, tmp_path, mode='starter') == package
    assert starter == []


def test_an_embedded_model_is_reported_by_its_name(store: ModelStore, starter: list[Path], tmp_path: Path) -> None:
    """The Loop sees `starter`, not a version that could be one of its own; a model of the Loop is not embedded."""
    assert store.embedded('starter').reported_version == 'starter'
    assert store.embedded('starter').model_version.startswith('starter 0.')
    deployed = store.add(make_package(tmp_path / 'a.zip', version='1.4'))
    assert (deployed.name, deployed.reported_version, deployed.is_embedded) == ('test-card', '1.4', False)


def test_an_installed_model_is_never_covered_up(store: ModelStore, starter: list[Path], tmp_path: Path) -> None:
    """Without its link, or with a folder in its place, an installed model is tried, and commands name the remedy."""
    store.install(make_package(tmp_path / 'a.zip', version='1.9'), verify=verify)
    link = store.data_folder / 'current_model'
    link.unlink()
    assert store.to_start_with() == [store.folder('1.9')]
    with pytest.raises(InvalidPackage, match='none of the models 1.9 .* is current: install one with `wholebody'):
        store.current_or_embedded('starter')
    store.folder('1.9').rename(link)  # as a copy does that follows links
    assert store.to_start_with() == [link]
    assert store.current_or_embedded('starter').version == '1.9'
    assert starter == []


def make_versions(store: ModelStore, *versions: str) -> None:
    """Make folders of versions, the latest first."""
    for age, version in enumerate(versions):
        store.folder(version).mkdir(parents=True)
        os.utime(store.folder(version), (9000 - age, 9000 - age))


def test_the_latest_model_is_tried_first(store: ModelStore) -> None:
    """After the current model, the others are tried in the order of their installation, whatever their versions."""
    make_versions(store, '1.2', '1.9', '1.10')
    assert [folder.name for folder in store.to_start_with()] == ['1.2', '1.9', '1.10']
    with pytest.raises(InvalidPackage, match='none of the models 1.2, 1.9, 1.10 in'):
        store.current()
    store.select('1.10')
    assert [folder.name for folder in store.to_start_with()] == ['1.10', '1.2', '1.9']


def test_pruning_keeps_the_latest_models_and_the_current_one(store: ModelStore) -> None:
    """The oldest go first, whatever their versions; the current one stays even if it is the oldest."""
    make_versions(store, '1.1', '1.3', '1.4', '1.2')
    store.select('1.2')
    store.prune(5)
    store.prune(4)
    assert store.versions() == ['1.1', '1.2', '1.3', '1.4']
    store.prune(3)
    assert store.versions() == ['1.1', '1.2', '1.3']
    store.prune(1)
    assert store.versions() == ['1.2']
    store.remove('1.9')
    assert store.versions() == ['1.2']


def test_a_download_has_its_place_in_the_data_folder(store: ModelStore) -> None:
    """The folder for downloads is made when it is first needed."""
    for name in ('a', 'b'):
        assert store.download_path(name) == store.data_folder / 'downloads' / f'{name}.zip'
        assert store.download_path(name).parent.is_dir()


def test_installing_makes_a_version_current(store: ModelStore, tmp_path: Path) -> None:
    """An installed version becomes current in the layout of learning_loop_node: models/<version>, current_model."""
    store.install(make_package(tmp_path / 'a.zip', version='1.9'), verify=verify)
    package = store.install(make_package(tmp_path / 'b.zip', version='1.10', name='other'), verify=verify)
    assert store.current() == (store.data_folder / 'models' / '1.10').resolve()
    assert package.model_version == 'other 1.10'
    assert (store.data_folder / 'current_model').is_symlink()
    versions = [model.version for model in store.installed() if not isinstance(model, InvalidPackage)]
    assert versions == ['1.9', '1.10']
    store.select('1.9')
    assert store.current_or_embedded('starter').version == '1.9'


def test_a_version_is_replaced_only_on_request(store: ModelStore, tmp_path: Path) -> None:
    """Installing a version a second time needs `replace`."""
    store.install(make_package(tmp_path / 'a.zip', name='one'), verify=verify)
    with pytest.raises(InvalidPackage, match='already installed'):
        store.install(make_package(tmp_path / 'b.zip', name='two'), verify=verify)
    assert store.install(tmp_path / 'b.zip', verify=verify, replace=True).name == 'two'


def test_the_loop_decides_on_the_version_and_a_model_is_tried_before_it_replaces_another(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A package that names another version than the Loop is logged; the one to replace sees the whole new package."""
    archive = make_package(tmp_path / 'a.zip', version='1.0')
    tried: list[ModelPackage] = []
    offered = OfferedModel(version='1.0', model_id='loop-model')
    store.add(archive, offered, before_replacing=tried.append)
    assert caplog.text == ''
    assert tried == []
    store.add(archive, offered, before_replacing=tried.append)
    assert [(package.version, package.id) for package in tried] == [('1.0', 'loop-model')]
    store.add(archive, OfferedModel(version='2.0', model_id='loop-model'))
    assert 'the package of model 2.0 names the version 1.0' in caplog.text


def test_a_folder_that_cannot_be_emptied_hinders_no_change(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the disk keeps the folders of removed models, models are replaced and removed; the next start empties them."""
    old, new = make_package(tmp_path / 'a.zip', name='old'), make_package(tmp_path / 'b.zip', name='new')
    store.add(old)
    store.folder('1.1').mkdir()

    def keep(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, 'Input/output error')

    with monkeypatch.context() as broken:
        broken.setattr(os, 'rmdir', keep)
        store.select(store.add(new).version)
        store.remove('1.1')
    assert store.current_or_embedded('starter').name == 'new'
    assert store.versions() == ['1.0']
    assert len(list(store.models.iterdir())) > 1
    store.mend()
    assert [folder.name for folder in store.models.iterdir()] == ['1.0']


def test_a_start_waits_for_another_process_only_if_its_model_is_missing(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another process may be replacing a missing model; a start with its model in place is not delayed."""
    waited = []

    def locked(_: Path, *, seconds: float) -> AbstractContextManager[None]:
        waited.append(seconds)
        raise FolderInUse('in use by process 7')

    monkeypatch.setattr(model_store, 'locked', locked)
    store.mend()
    store.folder('1.0').mkdir(parents=True)
    store.select('1.0')
    store.mend()
    with pytest.raises(FolderInUse):
        store.add(tmp_path / 'a.zip')
    assert waited == [10, 0, 10]
    assert caplog.text.count('in use by process 7') == 2


def test_without_an_exchange_a_model_is_replaced_in_two_steps(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that cannot exchange two folders, the new model is in the place of the old one as well."""
    monkeypatch.setattr(model_store, 'exchange', lambda *_: False)
    for name in ('old', 'new'):
        assert store.add(make_package(tmp_path / 'a.zip', name=name)).name == name
        assert open_package(store.folder('1.0')).name == name
    assert [folder.name for folder in store.models.iterdir()] == ['1.0']


def test_a_bad_package_leaves_everything_as_it_was(store: ModelStore, tmp_path: Path) -> None:
    """The current model stays, and no partly unpacked folder remains."""
    store.install(make_package(tmp_path / 'a.zip'), verify=verify)
    bad = altered(tmp_path / 'bad.zip', lambda d: d['categories'].pop())
    with pytest.raises(InvalidPackage, match='right_hand_20 missing'):
        store.install(bad, verify=verify)
    with pytest.raises(InvalidPackage, match='no such file'):
        store.install(tmp_path / 'missing.zip', verify=verify)
    assert store.current_or_embedded('starter').version == '1.0'
    assert [folder.name for folder in store.models.iterdir()] == ['1.0']


def test_broken_installations_are_listed_as_such(store: ModelStore, tmp_path: Path) -> None:
    """A damaged file and a missing folder are named in the error."""
    package = store.install(make_package(tmp_path / 'a.zip'), verify=verify)
    package.estimator_path.write_bytes(b'damaged')
    (broken,) = store.installed()
    assert isinstance(broken, InvalidPackage)
    assert '1.0: pose.onnx: sha256' in str(broken)
    package.folder.rename(store.models / '.gone')
    with pytest.raises(InvalidPackage, match='1.0 is missing'):
        store.current()


def test_verification_describes_the_package(tmp_path: Path) -> None:
    """Verification returns the description of the package."""
    assert verify(make_package(tmp_path / 'a.zip', version='3.1')).model_version == 'test-card 3.1'


def test_networks_are_hashed_once_per_load(store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding a package of the Loop hashes each of its networks once, and so does loading it."""
    hashed: list[str] = []

    def counting(path: Path) -> str:
        hashed.append(path.name)
        return file_sha256(path)

    archive = make_package(tmp_path / 'a.zip')
    monkeypatch.setattr(model_package, 'file_sha256', counting)
    package = store.add(archive, OfferedModel(version='2.1', model_id='loop-model'))
    assert hashed == ['det.onnx', 'pose.onnx']
    hashed.clear()
    assert PoseEngine(open_package(package.folder)).package == package
    assert hashed == ['det.onnx', 'pose.onnx']
    assert (package.folder.name, package.version, package.id) == ('2.1', '2.1', 'loop-model')


def test_a_version_of_wrong_form_replaces_nothing(store: ModelStore, tmp_path: Path) -> None:
    """A version that the Loop offers is checked before the package is moved to its folder."""
    with pytest.raises(InvalidPackage, match='version'):
        store.add(make_package(tmp_path / 'a.zip'), OfferedModel(version='latest', model_id='loop-model'))
    assert list(store.models.iterdir()) == []


# ---------------------------------------------------------------- interrupted changes

_KILLED_COMMAND = """
import os, signal, sys
from pathlib import Path

from detector.models import package, store
from detector.cli.main import main

left, can_exchange = int(sys.argv[1]), sys.argv[2] == 'True'

def counted(change):
    def call(*arguments, **options):
        global left
        target = str(arguments[1])
        left -= '/data/models/' in target or target.endswith('current_model')
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return change(*arguments, **options)
    return call

os.rename, os.replace = counted(os.rename), counted(os.replace)
store.exchange = counted(store.exchange) if can_exchange else lambda *_: False
sys.argv[1:] = ['model', 'install', '--replace', sys.argv[3]]
main()
"""
"""Runs `wholebody model install --replace`, and kills it at its n-th rename in the installed models."""


def replace_and_be_killed(store: ModelStore, archive: Path, step: int, *, can_exchange: bool = True) -> int:
    """Run the command in a process of its own.

    :param step: number of the rename at which the process is killed, counted from 1.
    :return: exit status of the process.
    """
    environment = clean_environment(DATA_FOLDER=store.data_folder) | {'PYTHONPATH': str(PROJECT)}
    command = [sys.executable, '-c', _KILLED_COMMAND, str(step), str(can_exchange), str(archive)]
    return subprocess.run(command, env=environment, check=False, stdout=subprocess.DEVNULL).returncode


@pytest.mark.parametrize('can_exchange', [True, False])
def test_a_replacement_that_is_killed_at_a_rename_loses_no_model(
    store: ModelStore, tmp_path: Path, can_exchange: bool
) -> None:
    """After a SIGKILL at each rename of `install --replace`, the old or the new model is whole and current."""
    old, new = make_package(tmp_path / 'a.zip', name='old'), make_package(tmp_path / 'b.zip', name='new')
    store.install(old, verify=verify)
    found = []
    for step in range(1, 10):
        status = replace_and_be_killed(store, new, step, can_exchange=can_exchange)
        store.mend()
        found.append(store.current_or_embedded('starter').name)
        assert [folder.name for folder in store.models.iterdir()] == ['1.0']
        if status == 0:
            break
        assert status == -signal.SIGKILL
        store.add(old)
    assert found[-1] == 'new'
    assert found[0] == 'old'
    assert len(found) == (3 if can_exchange else 4)  # the exchange or two renames, the link, and the whole command


def test_a_node_starts_with_the_model_whose_replacement_was_killed(store: ModelStore, tmp_path: Path) -> None:
    """Where two paths cannot be exchanged, a kill between the renames leaves no version, and the next start has it."""
    store.install(make_package(tmp_path / 'a.zip', name='old'), verify=verify)
    new = make_package(tmp_path / 'b.zip', name='new')
    assert replace_and_be_killed(store, new, 2, can_exchange=False) == -signal.SIGKILL
    assert store.versions() == []
    with running_node(tmp_path) as node:
        assert httpx.get(f'{node.url}/ready').json()['model_version'] == 'old 1.0'
        assert 'the model 1.0 is put back' in node.log.read_text()


@pytest.mark.parametrize('can_exchange', [True, False])
def test_a_replacement_that_fails_leaves_the_old_model(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    """If the new model cannot be moved to its place, the old one is there again when the command reports the error."""
    store.install(make_package(tmp_path / 'a.zip', name='old'), verify=verify)
    rename = Path.rename

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, 'No space left on device')

    def fail(path: Path, target: Path) -> Path:
        return rename(path, target) if path.name != 'new' else Path(str(full()))

    monkeypatch.setattr(model_store, 'exchange', full if can_exchange else lambda *_: False)
    monkeypatch.setattr(Path, 'rename', fail)
    with pytest.raises(OSError, match='No space left'):
        store.add(make_package(tmp_path / 'b.zip', name='new'))
    assert store.current_or_embedded('starter').name == 'old'
    assert [folder.name for folder in store.models.iterdir()] == ['1.0']


def test_the_link_leads_to_a_model_at_every_moment(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """During an installation, a replacement and a selection, each step leaves a link to a complete model."""
    store.install(make_package(tmp_path / 'a.zip', name='old'), verify=verify)
    new, later = make_package(tmp_path / 'b.zip', name='new'), make_package(tmp_path / 'c.zip', '1.1', 'later')
    seen: set[str] = set()

    def watched(change: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            result = change(*arguments, **options)
            seen.add(store.current_or_embedded('starter').model_version)
            return result

        return call

    for module, name in ((os, 'replace'), (os, 'rename'), (os, 'symlink'), (os, 'unlink'), (shutil, 'rmtree')):
        monkeypatch.setattr(module, name, watched(getattr(module, name)))
    monkeypatch.setattr(model_store, 'exchange', watched(durable.exchange))
    store.install(new, verify=verify, replace=True)
    store.install(later, verify=verify)
    assert seen == {'old 1.0', 'new 1.0', 'later 1.1'}


def test_a_model_is_on_the_disk_before_it_is_reported(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files come before their folder, the folder before its new place, and the place before the link to it."""
    store.install(make_package(tmp_path / 'a.zip'), verify=verify)
    new = make_package(tmp_path / 'b.zip')
    steps: list[str] = []
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        steps.append(Path(os.readlink(f'/proc/self/fd/{descriptor}')).name)
        fsync(descriptor)

    monkeypatch.setattr(os, 'fsync', synced)

    def noted(name: str, change: Callable[..., object]) -> Callable[..., object]:
        def call(*paths: object) -> object:
            steps.append(name)
            return change(*paths)

        return call

    monkeypatch.setattr(model_store, 'exchange', noted('exchange', durable.exchange))
    monkeypatch.setattr(os, 'replace', noted('replace', os.replace))
    store.add(new, OfferedModel(version='1.0', model_id='loop-model'))
    store.select('1.0')
    assert steps == [
        'data',
        *('model.json', 'det.onnx', 'pose.onnx', 'model.json', 'new'),
        *('exchange', 'models', 'replace', 'data'),
    ]


# ---------------------------------------------------------------- the link to the current model


def test_a_folder_in_place_of_the_link_becomes_a_link(store: ModelStore, tmp_path: Path) -> None:
    """A copy that follows links becomes what it was: one folder per version, and a link."""
    store.install(make_package(tmp_path / 'a.zip', version='1.9'), verify=verify)
    for change in (shutil.copytree, shutil.move):
        store.link.unlink()
        change(store.folder('1.9'), store.link)
        store.mend()
        assert store.is_linked
        assert store.current_or_embedded('starter').version == '1.9'
        assert store.versions() == ['1.9']
        assert sorted(entry.name for entry in store.models.iterdir()) == ['1.9']


def test_a_sound_store_is_not_touched(store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Before the first model and with a current one, a start finds nothing to put right."""
    store.mend()
    store.select(store.add(make_package(tmp_path / 'a.zip')).version)
    store.mend()
    assert store.is_linked
    assert [entry.name for entry in store.models.iterdir()] == ['1.0']
    assert caplog.text == ''


def test_a_folder_in_place_of_the_link_is_kept_if_its_version_is_broken(store: ModelStore, tmp_path: Path) -> None:
    """The only sound copy of a model is not removed in favour of a damaged one of the same version."""
    store.select(store.add(make_package(tmp_path / 'a.zip')).version)
    store.link.unlink()
    shutil.copytree(store.folder('1.0'), store.link)
    (store.folder('1.0') / 'pose.onnx').write_bytes(b'damaged')
    store.mend()
    assert open_package(store.link).version == '1.0'


def test_a_folder_that_is_another_model_of_a_version_is_kept(
    store: ModelStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither model is lost: the folder is current, and set aside when a client selects a version."""
    store.install(make_package(tmp_path / 'a.zip', name='one'), verify=verify)
    other = store.add(make_package(tmp_path / 'b.zip', name='two', version='1.1'))
    store.link.unlink()
    description = (other.folder / 'model.json').read_text().replace('"1.1"', '"1.0"')
    shutil.move(other.folder, store.link)
    (store.link / 'model.json').write_text(description)
    store.mend()
    assert store.current_or_embedded('starter').name == 'two'
    store.select('1.0')
    assert store.current_or_embedded('starter').name == 'one'
    (aside,) = store.data_folder.glob('current_model.aside-*')
    assert open_package(aside).name == 'two'
    assert str(aside) in caplog.text


def test_an_empty_folder_in_place_of_the_link_is_no_model(store: ModelStore, starter: list[Path]) -> None:
    """A folder that a mount has left does not keep the embedded model from serving where nothing is installed."""
    store.link.mkdir(parents=True)
    store.mend()
    assert store.to_start_with() == []
    assert store.current_or_embedded('starter').name == 'starter'


def test_a_link_to_itself_hides_no_model(store: ModelStore, tmp_path: Path) -> None:
    """The installed model is tried, and commands name the remedy."""
    store.install(make_package(tmp_path / 'a.zip'), verify=verify)
    store.link.unlink()
    store.link.symlink_to(store.link)
    store.mend()
    assert store.to_start_with() == [store.link, store.folder('1.0').resolve()]
    with pytest.raises(InvalidPackage, match='the current model current_model is missing'):
        store.current()


def test_a_leftover_that_cannot_be_removed_stops_nothing(
    store: ModelStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The log names it, and the other leftovers are put right."""
    store.install(make_package(tmp_path / 'a.zip'), verify=verify)
    blocked, displaced = store.models / '.install-a', store.models / '.install-b'
    for scratch in (blocked, displaced):
        scratch.mkdir()
    store.folder('1.0').rename(displaced / '1.0')
    scan = Path.iterdir

    def refuse(path: Path) -> object:
        if path == blocked:
            raise PermissionError(errno.EACCES, 'Permission denied')
        return scan(path)

    monkeypatch.setattr(Path, 'iterdir', refuse)
    store.mend()
    assert store.current_or_embedded('starter').version == '1.0'
    assert f'{blocked} is left as it is' in caplog.text
