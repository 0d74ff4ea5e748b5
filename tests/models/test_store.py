"""Installed models."""

from pathlib import Path

import pytest

from benchmarks.support.packages import altered, make_package
from detector.engine.pose_engine import PoseEngine
from detector.engine.verification import verify
from detector.errors import InvalidPackage
from detector.models import package as model_package
from detector.models.package import OfferedModel, file_sha256, open_package
from detector.models.store import ModelStore


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
