"""The import contracts of pyproject.toml hold, and each of them can fail."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

from benchmarks.support.processes import PROJECT

ROOTS = ('detector', 'mock', 'training', 'benchmarks', 'tests')
CONTRACTS = tomllib.loads((PROJECT / 'pyproject.toml').read_text())['tool']['importlinter']['contracts']
FORBIDDEN = {
    'layers': ('detector/pose/pose.py', 'detector.api.routes'),
    'label-studio-layers': ('detector/label_studio/labels/config.py', 'detector.label_studio.workflows.exports'),
    'formats': ('detector/datasets/yolo.py', 'detector.datasets.coco'),
    'doors': ('detector/service.py', 'fastapi'),
    'mock': ('detector/models/embedded.py', 'mock.test_card.cards'),
    'page': ('detector/node/wholebody_node.py', 'detector.page.elements'),
    'tests': ('benchmarks/load.py', 'tests.support.people'),
    'training': ('training/grid.py', 'detector.serving.admission'),
}
"""A file and an import that the file must not have, for each contract."""


def lint_imports(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name('lint-imports')), '--no-logo', '--no-cache', *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture(scope='module')
def graph() -> grimp.ImportGraph:
    """Return every import between our modules; those for types count."""
    return grimp.build_graph(*ROOTS, cache_dir=None)


def test_every_contract_holds() -> None:
    """The tree keeps all contracts, and none of them ignores an import."""
    answer = lint_imports(PROJECT)
    assert answer.returncode == 0, answer.stdout
    assert f'{len(CONTRACTS)} kept, 0 broken' in answer.stdout
    assert not [contract['id'] for contract in CONTRACTS if 'ignore_imports' in contract]


def test_every_room_below_the_doors_is_free_of_web_frameworks() -> None:
    """The contract `doors` names every layer below `api`."""
    contracts = {contract['id']: contract for contract in CONTRACTS}
    layers = contracts['layers']['layers']
    below = {room for names in layers[layers.index('api') + 1 :] for room in re.findall(r'\w+', names)}
    existing = {room for room in below if list((PROJECT / 'detector').glob(f'{room}*'))}
    assert {f'detector.{room}' for room in existing} == set(contracts['doors']['source_modules'])


@pytest.mark.parametrize('contract', [contract['id'] for contract in CONTRACTS])
def test_a_forbidden_import_breaks_its_contract(contract: str, tmp_path: Path) -> None:
    """A contract that held fails after one import for a type is added, and names that import."""
    for root in ROOTS:
        shutil.copytree(PROJECT / root, tmp_path / root, ignore=shutil.ignore_patterns('__pycache__', '.hypothesis'))
    shutil.copy(PROJECT / 'pyproject.toml', tmp_path)
    assert lint_imports(tmp_path, '--contract', contract).returncode == 0
    name, imported = FORBIDDEN[contract]
    with (tmp_path / name).open('a') as file:
        file.write(f'\nfrom typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import {imported}\n')
    answer = lint_imports(tmp_path, '--contract', contract)
    assert answer.returncode == 1
    importer = name.removesuffix('.py').replace('/', '.')
    assert re.search(rf'{re.escape(importer)}\s+->\s+{re.escape(imported)}', answer.stdout), answer.stdout


def test_modules_import_each_other_in_no_cycle(graph: grimp.ImportGraph) -> None:
    """The modules can be sorted so that each one imports only earlier ones."""
    modules = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    TopologicalSorter(modules).prepare()  # a CycleError names the modules
    print('cycles: 0')


def test_no_import_runs_up(graph: grimp.ImportGraph) -> None:
    """Counted without import-linter, no room imports from a room above it or beside it."""
    (layers,) = (contract['layers'] for contract in CONTRACTS if contract['id'] == 'layers')
    floors = {room: floor for floor, names in enumerate(layers) for room in re.findall(r'\w+', names)}
    arrows = [
        f'{module} -> {imported}'
        for module in graph.modules
        for imported in graph.find_modules_directly_imported_by(module)
        if module.startswith('detector.') and imported.startswith('detector.')
        if (room := module.split('.')[1]) in floors and (other := imported.split('.')[1]) != room
        if floors[other] <= floors[room]
    ]
    print(f'imports that run up: {len(arrows)}')
    assert arrows == []


def test_the_node_is_no_service_locator() -> None:
    """Outside `detector/node`, no module quotes the node as a type; nowhere is a value cast to it."""
    quoted = re.compile(r'[\w.\[\]|, ]*\bWholebodyNode\b[\w\[\]|, ]*')
    for path in (PROJECT / 'detector').rglob('*.py'):
        text = path.read_text()
        assert not re.search(r'\bcast\(\s*[\'"]?WholebodyNode', text), path
        strings = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        types = [value for value in strings if isinstance(value, str) and quoted.fullmatch(value)]
        assert not types or path.parent == PROJECT / 'detector' / 'node', (path, types)


def test_the_command_line_loads_the_mock_only_when_asked() -> None:
    """Importing the command line loads neither the mock Loop nor the page."""
    program = 'import sys, detector.cli.main; print(*sorted(sys.modules))'
    loaded = subprocess.run([sys.executable, '-c', program], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert not [name for name in loaded.stdout.split() if re.match(r'mock\b|detector\.page\b', name)]
