"""The Python API: the names that `detector` exports, their types, docstrings and examples."""

import ast
import doctest
import importlib
import inspect
import shutil
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest

import detector
from benchmarks.support.packages import make_package
from detector.engine.verification import verify
from detector.models.embedded import EMBEDDED_PACKAGE, EXAMPLE_CARD
from detector.models.store import ModelStore
from detector.settings import default_data_folder

NAMES = sorted(detector.__all__)
SOURCE = ast.parse(inspect.getsource(detector))


def docstring_of(name: str) -> str:
    """Return the docstring of an exported object; that of a constant follows its definition in the source."""
    value = getattr(detector, name)
    if inspect.isclass(value) or inspect.isroutine(value):
        return value.__doc__ or ''
    modules = [f'detector.{module}' for module, names in detector._SOURCES.items() if name in names]
    source = importlib.import_module(modules[0]) if modules else detector
    statements = [node for node in ast.walk(ast.parse(inspect.getsource(source))) if isinstance(node, ast.stmt)]
    for definition, following in pairwise(statements):
        if isinstance(definition, ast.AnnAssign) and ast.unparse(definition.target) == name:
            assert isinstance(following, ast.Expr)
            assert isinstance(following.value, ast.Constant)
            return str(following.value.value)
    return ''


def test_dir_shows_the_exported_names() -> None:
    """`dir(detector)` equals `__all__`, and an unknown name raises AttributeError."""
    assert dir(detector) == NAMES
    assert len(set(NAMES)) == len(NAMES)
    with pytest.raises(AttributeError, match="module 'detector' has no attribute 'PoseMachine'"):
        detector.PoseMachine  # noqa: B018


def test_type_checkers_and_the_interpreter_see_the_same_objects() -> None:
    """The imports for type checkers name the object that the lazy import returns."""
    (block,) = (node for node in SOURCE.body if isinstance(node, ast.If))
    seen = {}
    for statement in block.body:
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                seen[alias.asname or alias.name] = getattr(importlib.import_module(str(statement.module)), alias.name)
    assert sorted([*seen, '__version__']) == NAMES
    for name, value in seen.items():
        assert getattr(detector, name) is value
    assert detector.__version__ == version('wholebody-pose-node')
    assert Path(str(detector.__file__)).with_name('py.typed').is_file()


@pytest.mark.parametrize('name', NAMES)
def test_every_exported_name_is_documented(name: str) -> None:
    """Each exported object has a docstring."""
    assert docstring_of(name).strip()


EXAMPLES = doctest.DocTestFinder(recurse=True, exclude_empty=True)
DOCUMENTED = {
    example.name: example
    for name in ('', *NAMES)
    for value in [getattr(detector, name) if name else detector]
    if not name or inspect.isclass(value) or inspect.isroutine(value)
    for example in EXAMPLES.find(value, name or 'detector', globs={})
    if example.examples
}


@pytest.mark.parametrize('name', DOCUMENTED)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each example gives the output that it shows, with the example card in place of a photograph."""
    shutil.copy(EXAMPLE_CARD, tmp_path / 'photo.jpg')
    shutil.copy(EMBEDDED_PACKAGE, tmp_path / 'package.zip')
    monkeypatch.setenv('XDG_DATA_HOME', str(tmp_path / 'share'))
    ModelStore(default_data_folder()).install(make_package(tmp_path / 'installed.zip'), verify=verify)
    example = DOCUMENTED[name]
    example.globs = {exported: getattr(detector, exported) for exported in NAMES}
    results = doctest.DocTestRunner().run(example)
    assert results.attempted > 0
    assert results.failed == 0


def test_the_important_names_have_examples() -> None:
    """A reader finds an example for the engine, poses, packages and images."""
    important = {'PoseEngine', 'EngineOptions', 'Pose', 'open_package', 'read_image', 'draw_poses', 'installed_package'}
    assert important | {'detector'} <= set(DOCUMENTED)
