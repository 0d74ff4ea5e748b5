"""Model packages of arbitrary bytes and descriptions: they open or raise InvalidPackage, and nothing leaks outside."""

import json
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from benchmarks.support.packages import embedded_files, write_zip
from detector.errors import InvalidPackage
from detector.models import package as model_package
from detector.models.archive import unpack_archive
from detector.models.embedded import EMBEDDED_PACKAGE
from detector.models.package import ModelPackage
from tests.support.strategies import JSON, damaged, mutated

FILES = embedded_files()
DESCRIPTION = json.loads(FILES['model.json'])


def small_zip() -> bytes:
    with TemporaryDirectory() as folder:
        return write_zip(
            Path(folder) / 'a.zip', {'model.json': b'{"a": 1}' * 20, 'det.onnx': bytes(range(99))}
        ).read_bytes()


SMALL_ZIP = small_zip()
NAMES = st.text(min_size=1, max_size=20) | st.sampled_from(
    ['../x', '/etc/x', 'a/b', 'C:x', '..', '.', 'a\\b', 'model.json', 'det.onnx', 'a' * 300, 'x/']
)


def unpacked(content: bytes) -> set[str]:
    """Return the names of the files that a package leaves in its folder."""
    with TemporaryDirectory() as outer:
        archive, folder = Path(outer) / 'package.zip', Path(outer) / 'inside' / 'deep'
        archive.write_bytes(content)
        folder.mkdir(parents=True)
        try:
            unpack_archive(archive, folder)
        finally:
            assert sorted(path.name for path in Path(outer).iterdir()) == ['inside', 'package.zip']
            assert [path.name for path in folder.parent.iterdir()] == ['deep']
        return {path.name for path in folder.iterdir()}


@given(damaged(SMALL_ZIP))
def test_a_damaged_zip_is_unpacked_or_refused(content: bytes) -> None:
    """Only InvalidPackage is raised, and nothing is written outside the folder."""
    try:
        unpacked(content)
    except InvalidPackage as error:
        assert str(error)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    """Arbitrary bytes raise nothing but InvalidPackage."""
    try:
        unpacked(content)
    except InvalidPackage as error:
        assert str(error)


@example({'': b'content'}, 0)
@example({'?': b'one', 'é': b'two'}, 0)
@given(st.dictionaries(NAMES, st.binary(max_size=50), max_size=40), st.integers(0, 0xFFFF))
def test_no_name_in_a_zip_leads_out(files: dict[str, bytes], mode: int) -> None:
    """Entries of any name and mode are unpacked flat or refused."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / 'a.zip'
        with zipfile.ZipFile(path, 'w') as archive, warnings.catch_warnings():
            warnings.simplefilter('ignore')  # names that are written alike
            for name, content in files.items():
                entry = zipfile.ZipInfo(name.encode(errors='replace').decode())
                entry.external_attr = mode << 16
                archive.writestr(entry, content)
        content = path.read_bytes()
    try:
        names = unpacked(content)
    except InvalidPackage as error:
        assert str(error)
        return
    assert len(names) == len(files)
    assert all(name[0].isalnum() and name.isascii() for name in names)


@pytest.fixture(scope='module')
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the embedded package. The tests replace its description."""
    folder = tmp_path_factory.mktemp('package')
    model_package.unpack_package(EMBEDDED_PACKAGE, folder)
    return folder


def opened(folder: Path, description: bytes) -> ModelPackage | None:
    (folder / 'model.json').write_bytes(description)
    try:
        return model_package.open_package(folder)
    except InvalidPackage as error:
        assert str(error)
        return None


def test_any_description_is_refused_or_complete(installed: Path) -> None:
    """A model.json of any form raises InvalidPackage or opens as a complete package."""

    @given(
        JSON | mutated(DESCRIPTION) | mutated(DESCRIPTION['wholebody']).map(lambda w: DESCRIPTION | {'wholebody': w})
    )
    def check(description: Any) -> None:
        package = opened(installed, json.dumps(description).encode())
        if package is not None:
            assert len(package.category_ids) == 134
            assert package.detector_path.is_file()
            assert package.estimator_path.is_file()

    check()


def test_a_damaged_description_is_refused_or_good(installed: Path) -> None:
    """A model.json with wrong bytes opens or raises InvalidPackage."""

    @given(damaged(FILES['model.json']) | st.sampled_from([b'[' * 20_000, b'{"a":' * 5000, b'9' * 5000]))
    def check(content: bytes) -> None:
        opened(installed, content)

    check()
