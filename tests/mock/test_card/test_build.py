"""Building the package of the test card model."""

import json
import zipfile
from pathlib import Path

from benchmarks.support.packages import embedded_files, make_package
from detector.models.embedded import EMBEDDED_PACKAGE


def test_the_committed_package_is_the_one_that_the_code_builds(tmp_path: Path) -> None:
    """model_files/test-card.zip has the description and networks that mock/ builds today."""
    built = make_package(tmp_path / 'built.zip', version='0.0')
    with zipfile.ZipFile(built) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    committed = embedded_files()
    assert json.loads(files['model.json']) == json.loads(committed['model.json'])
    assert files == committed


def test_packing_is_reproducible_and_small(tmp_path: Path) -> None:
    """The same networks give the same id, and the embedded package stays under 200 kB."""
    first, second = (embedded_files(), make_package(tmp_path / 'b.zip', version='0.0'))
    with zipfile.ZipFile(second) as archive:
        assert json.loads(archive.read('model.json'))['id'] == json.loads(first['model.json'])['id']
    assert EMBEDDED_PACKAGE.stat().st_size < 200_000
