"""The tests mirror the rooms of the product."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from benchmarks.support.processes import PROJECT

ELSEWHERE: Final = {
    # Two lines that start the command line; every process test runs them.
    'detector/__main__.py': 'tests/node/test_server.py',
    'mock/__main__.py': 'tests/mock/loop/test_commands.py',
    # The image's build runs it.
    'detector/models/starter/__main__.py': 'tests/integration/test_image.py',
    # They need a real Label Studio: tests/integration/test_labelstudio_*.
    'detector/cli/labelstudio/': 'tests/integration/test_labelstudio_setup.py',
    'detector/label_studio/workflows/ray_preannotation.py': 'tests/integration/test_labelstudio_preannotate.py',
    # Chromium looks at the cards of the page.
    'detector/page/': 'tests/integration/test_page.py',
    # One test file looks at the parts from above.
    'detector/api/openapi.py': 'tests/integration/test_schemathesis.py',
    'detector/cli/bench/': 'tests/cli/bench/test_measuring.py',
    'detector/cli/common.py': 'tests/cli/test_main.py',
    'detector/label_studio/backend/preannotation.py': 'tests/test_ls_adapter.py',
    'detector/label_studio/labels/task_labels.py': 'tests/label_studio/workflows/test_exports.py',
    'detector/outbox/images.py': 'tests/api/test_outbox_routes.py',
    # They need PyTorch, which the plain suite does not install.
    'training/__main__.py': 'tests/integration/test_training.py',
    'training/blocks.py': 'tests/integration/test_training.py',
    'training/examples.py': 'tests/integration/test_training.py',
    'training/export.py': 'tests/integration/test_training.py',
    'training/learner.py': 'tests/integration/test_training.py',
    'training/losses.py': 'tests/integration/test_training.py',
    'training/network.py': 'tests/integration/test_training.py',
    'training/optimizer.py': 'tests/integration/test_training.py',
    'training/run.py': 'tests/integration/test_training.py',
    # The commands, routes and store of the mock Loop read and write all of these.
    'mock/loop/': 'tests/mock/loop/test_store.py',
}
"""Modules, or folders of them, whose tests need no file of the module's name, and the file that covers them."""


def modules() -> Iterator[Path]:
    """The modules of the product, relative to the checkout; a package's `__init__` does no work."""
    for package in ('detector', 'mock', 'training'):
        for path in (PROJECT / package).rglob('*.py'):
            if path.name != '__init__.py':
                yield path.relative_to(PROJECT)


def mirrored(module: Path) -> Path:
    """The test file of a module: the tests of `detector` lie directly below tests/."""
    folder = module.parent.relative_to('detector') if module.parts[0] == 'detector' else module.parent
    return Path('tests') / folder / f'test_{module.name}'


def test_every_module_has_its_tests() -> None:
    """A module's tests are found under its name, or the list names the file that covers it."""
    without = {module.as_posix() for module in modules() if not (PROJECT / mirrored(module)).is_file()}
    listed = {module: entry for entry in ELSEWHERE for module in without if module.startswith(entry)}
    assert without - set(listed) == set(), 'add a test file, or an entry with a reason'
    assert set(ELSEWHERE) - set(listed.values()) == set(), 'all modules of this entry have test files: remove it'
    assert [path for path in ELSEWHERE.values() if not (PROJECT / path).is_file()] == []


def test_no_module_takes_names_out_of_a_test_file() -> None:
    """No module imports names from a test file; shared helpers are in tests/support or benchmarks/support."""
    found = [
        f'{path.relative_to(PROJECT)}:{node.lineno}'
        for package in ('tests', 'benchmarks')
        for path in (PROJECT / package).rglob('*.py')
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and takes_from_a_test(node)
    ]
    assert found == []


def takes_from_a_test(node: ast.ImportFrom) -> bool:
    module = node.module or ''
    return (node.level > 0 or module.startswith('tests.')) and module.rpartition('.')[2].startswith('test_')
