"""The project's own files: dependencies, pins, checks, and what must never be committed."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml

from benchmarks.support.processes import PROJECT


def committed() -> list[Path]:
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=PROJECT, capture_output=True, check=False).stdout.decode()
    return [PROJECT / name for name in listed.split('\0') if name and (PROJECT / name).is_file()]


def test_exactly_one_opencv_is_installed() -> None:
    """Only the headless build is installed; rtmlib's two builds with a GUI would overwrite its files."""
    found = {dist.name.lower() for dist in distributions() if dist.name.lower().startswith('opencv')}
    assert found == {'opencv-python-headless'}


def test_the_lock_pins_every_dependency_without_addresses() -> None:
    """Each dependency of pyproject.toml has one exact version with hashes, without addresses or OpenCV with a GUI.

    mediapipe has two, of which the platform selects one.
    """
    lock = (PROJECT / 'requirements.lock').read_text()
    found = re.findall(r'^([a-z0-9-]+)==([^ \\]+)', lock, re.MULTILINE)
    pins = dict(found)
    assert sorted({*pins, 'mediapipe'}) == sorted(name for name, version in found if version != '0.10.18')
    assert {version for name, version in found if name == 'mediapipe'} == {'0.10.18', '0.10.21'}
    project = tomllib.loads((PROJECT / 'pyproject.toml').read_text())
    for requirement in project['project']['dependencies'] + project['project']['optional-dependencies']['page']:
        name = re.split(r'[\[<>=!~ ]', requirement)[0]
        assert name in pins, name
    assert '://' not in lock
    assert not {'opencv-python', 'opencv-contrib-python', 'openvino-telemetry'} & set(pins)
    assert lock.count('--hash=sha256:') >= len(pins)


def test_nothing_that_must_not_be_is_committed() -> None:
    """The repository holds no uv.lock, registry address, secret file or large file."""
    registries = re.compile('py' + r'pi\.org|python' + r'hosted\.org|registry\.npm' + r'js|deb\.deb' + r'ian\.org')
    for path in committed():
        assert path.name not in ('uv.lock', '.env')
        assert path.stat().st_size < 2_000_000
        if path.suffix not in ('.zip', '.jpg', '.png', '.onnx', '.xz'):
            assert not registries.search(path.read_text()), path


def test_label_studio_and_its_users_find_the_node() -> None:
    """The node is published on both documented ports, and Label Studio accepts a backend in its own network."""
    services = yaml.safe_load((PROJECT / 'docker-compose.yml').read_text())['services']
    assert services['node']['ports'] == ['8004:8004', '9090:8004']
    assert services['label-studio']['environment']['USE_DEFAULT_BANNED_SUBNETS'] == 'false'


def test_ci_runs_everything() -> None:
    """CI runs each check, the plain suite on Python 3.11, the smoke test on the others, and the integration tests."""
    script = PROJECT / '.ci' / 'run'
    text = script.read_text()
    for step in (
        'ruff format --check',
        'ruff check',
        'mypy\n',
        'lint-imports\n',
        'hadolint',
        'check-jsonschema',
        'shellcheck',
        'mkdocs build --quiet --strict',
        'examples/*.sh',
        '.ci/python 3.11',
        'uv run --no-sync pytest\n',
        'for version in 3.12 3.13;',
        'tests/test_smoke.py',
        'pytest --integration',
    ):
        assert step in text
    assert os.access(script, os.X_OK)
    assert os.access(PROJECT / '.ci' / 'python', os.X_OK)


def test_a_fresh_checkout_installs_no_tools() -> None:
    """`uv run` installs no linter, browser driver, fuzzer, site generator or PyTorch: each has a group of its own."""
    groups = tomllib.loads((PROJECT / 'pyproject.toml').read_text())['dependency-groups']
    assert set(groups) == {
        'dev',
        'starter',
        'lint',
        'browser',
        'fuzz',
        'integration',
        'docs',
        'mutation',
        'training',
        'cuda',
    }
    default = {re.split(r'[\[<>=!~ ]', requirement)[0] for requirement in groups['dev']}
    assert not default & {
        'mypy',
        'ruff',
        'playwright',
        'schemathesis',
        'pre-commit',
        'mkdocs-material',
        'mutmut',
        'torch',
    }


@pytest.mark.integration
def test_uv_refuses_to_install_two_runtimes(tmp_path: Path) -> None:
    """`uv sync --all-groups` would overwrite onnxruntime by onnxruntime-gpu: it is refused and installs nothing."""
    checkout = tmp_path / 'checkout'
    checkout.mkdir()
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(PROJECT / name, checkout)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(('UV_', 'VIRTUAL_ENV'))}
    uv = os.environ.get('UV') or shutil.which('uv')
    assert uv is not None, 'uv is needed'
    answer = subprocess.run(
        [uv, 'sync', '--all-groups'], cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert 'Group `cuda` and package `wholebody-pose-node` are incompatible' in answer.stderr
    assert not list(checkout.glob('.venv/lib/*/site-packages/onnxruntime*'))
