"""The project's own files: dependencies, pins, image, what must never be committed."""

import os
import re
import subprocess
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import yaml

from benchmarks.support.processes import PROJECT


def committed() -> list[Path]:
    listed = subprocess.run(['git', 'ls-files', '-z'], cwd=PROJECT, capture_output=True, check=False).stdout.decode()
    return [PROJECT / name for name in listed.split('\0') if name and (PROJECT / name).is_file()]


def test_exactly_one_opencv_is_installed() -> None:
    """rtmlib asks for two builds with a GUI; installed together they overwrite each other's files."""
    found = {dist.name.lower() for dist in distributions() if dist.name.lower().startswith('opencv')}
    assert found == {'opencv-python-headless'}


def test_the_lock_pins_every_dependency_without_addresses() -> None:
    """Each dependency of pyproject.toml has an exact version with hashes; no address, no GUI OpenCV."""
    lock = (PROJECT / 'requirements.lock').read_text()
    pins = dict(re.findall(r'^([a-z0-9-]+)==([^ \\]+)', lock, re.MULTILINE))
    project = tomllib.loads((PROJECT / 'pyproject.toml').read_text())
    for requirement in project['project']['dependencies'] + project['project']['optional-dependencies']['page']:
        name = re.split(r'[\[<>=!~ ]', requirement)[0]
        assert name in pins, name
    assert '://' not in lock
    assert not {'opencv-python', 'opencv-contrib-python', 'openvino-telemetry'} & set(pins)
    assert lock.count('--hash=sha256:') >= len(pins)


def test_nothing_that_must_not_be_is_committed() -> None:
    """No uv.lock, no registry address, no secret file, nothing large."""
    registries = re.compile('py' + r'pi\.org|python' + r'hosted\.org|registry\.npm' + r'js|deb\.deb' + r'ian\.org')
    for path in committed():
        assert path.name not in ('uv.lock', '.env')
        assert path.stat().st_size < 2_000_000
        if path.suffix not in ('.zip', '.jpg', '.png'):
            assert not registries.search(path.read_text()), path


def test_label_studio_and_its_users_find_the_node() -> None:
    """Ports that the README names; Label Studio lets a backend in its own network be."""
    services = yaml.safe_load((PROJECT / 'docker-compose.yml').read_text())['services']
    assert services['node']['ports'] == ['8004:8004', '9090:8004']
    assert services['label-studio']['environment']['USE_DEFAULT_BANNED_SUBNETS'] == 'false'


def test_ci_runs_everything() -> None:
    """Format, lint, types, tests, integration; the script can be executed."""
    script = PROJECT / '.ci' / 'run'
    text = script.read_text()
    for step in (
        'ruff format --check',
        'ruff check',
        'uv run mypy',
        'hadolint',
        'check-jsonschema',
        'shellcheck',
        'uv run pytest\n',
        'pytest --integration',
    ):
        assert step in text
    assert os.access(script, os.X_OK)
