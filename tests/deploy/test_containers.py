"""The Dockerfile and docker-compose.yml agree with each other and with the code. `.ci/run` lints both."""

import ast
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from benchmarks.support.processes import PROJECT
from detector.cli.main import app
from detector.settings import Settings, environment_name
from tests.support.dockerfile import config, context, copied, stages

SETTINGS = {environment_name(field) for field in Settings.model_fields}
VARIANTS = ('cpu', 'cuda')
OURS = ('node', 'node-2', 'node-cuda', 'mock-loop')
"""Services that run the node's image."""


@pytest.fixture(scope='module')
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((PROJECT / 'docker-compose.yml').read_text())
    return found


# ---------------------------------------------------------------- the image


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_image_serves_unprivileged(variant: str) -> None:
    """The image has a numeric user, which Kubernetes can check, an existing command, and exposes the node's port."""
    image = config(VARIANT=variant)
    assert image.user == '1000:1000'
    assert image.entrypoint == ['wholebody']
    assert CliRunner().invoke(app, [*image.command, '--help']).exit_code == 0
    assert image.ports == [str(Settings.model_fields['backend_port'].default)]
    assert image.volumes == [image.environment['DATA_FOLDER']]
    assert image.stop_signal == 'SIGTERM'


@pytest.mark.parametrize('variant', VARIANTS)
def test_the_image_sets_real_settings(variant: str) -> None:
    """Every variable of the image is a setting, or belongs to Python, a library or NVIDIA's runtime."""
    known = {'PATH', 'HOME', 'NICEGUI_STORAGE_PATH', 'CUDA_CACHE_PATH'}
    environment = config(VARIANT=variant).environment
    ours = {name for name in environment if name not in known and not name.startswith(('PYTHON', 'NVIDIA_'))}
    assert ours == ({'DATA_FOLDER', 'DEVICE'} if variant == 'cuda' else {'DATA_FOLDER'})
    assert ours <= SETTINGS
    assert Settings(_env_file=None, device=environment.get('DEVICE', 'cpu')).device == environment.get('DEVICE', 'cpu')


def test_the_health_check_needs_no_shell_and_asks_a_real_route() -> None:
    """The check runs the interpreter with a valid program that requests `/ready` on BACKEND_PORT or NODE_PORT."""
    interpreter, *options, program = config().health
    assert interpreter == 'python'
    assert options == ['-I', '-c']
    ast.parse(program)
    assert "environ.get('BACKEND_PORT') or os.environ.get('NODE_PORT') or '8004'" in program
    assert "'/ready'" in program


@pytest.mark.parametrize('variant', VARIANTS)
def test_what_is_copied_exists_and_nothing_else_goes_in(variant: str) -> None:
    """.dockerignore admits exactly the sources that the variants copy, and every stage that is copied from exists."""
    assert _sources(*VARIANTS) == context()
    for source in _sources(variant):
        assert (PROJECT / source).exists(), source
    names = {stage.name for stage in stages(VARIANT=variant)}
    assert {origin for stage in stages() for origin, _, _ in copied(stage) if origin} <= names


def _sources(*variants: str) -> set[str]:
    """Return the paths that are copied from the build context."""
    return {
        source
        for variant in variants
        for stage in stages(VARIANT=variant)
        for origin, sources, _ in copied(stage)
        for source in sources
        if origin is None
    }


def test_every_installation_is_pinned() -> None:
    """Packages are installed by hash, from wheels, without dependencies. Only the project itself has no hash."""
    runs = [line.arguments for stage in stages() for line in stage.instructions if line.name == 'RUN']
    installs = [part for run in runs for part in run.split('&&') if ' install ' in part and 'pip' in part]
    locked = [words for words in installs if not words.rstrip().endswith('/src')]
    assert len(installs) == len(locked) + 1
    assert len(locked) == 2
    for words in locked:
        assert {'--no-deps', '--require-hashes', '--only-binary=:all:', '--no-cache-dir'} <= set(shlex.split(words))


def test_base_images_have_exact_versions(compose: dict[str, Any]) -> None:
    """Each image has a tag of three numbers or is built here."""
    bases = {stage.base for stage in stages()} - {stage.name for stage in stages()}
    pulled = {service['image'] for service in compose['services'].values() if 'build' not in service}
    assert len(bases) == 1
    assert next(iter(bases)).startswith('python:3.11.')
    assert len(pulled) == 4
    for image in bases | pulled:
        assert re.fullmatch(r'[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*', image), image


def test_the_labels_agree_with_the_project() -> None:
    """The labels have the version, licence and description of pyproject.toml."""
    project = tomllib.loads((PROJECT / 'pyproject.toml').read_text())['project']
    labels = {key.removeprefix('org.opencontainers.image.'): value for key, value in config().labels.items()}
    assert labels['version'] == project['version']
    assert labels['licenses'] == project['license']
    assert labels['description'] == project['description']
    assert labels['revision'] == 'unknown'


def test_no_secret_gets_into_a_layer() -> None:
    """No build argument or variable of the image has the name of a secret, and `.env` is not copied."""
    secrets = {environment_name(name) for name, field in Settings.model_fields.items() if 'Secret' in str(field)}
    assert 'LABEL_STUDIO_API_TOKEN' in secrets
    image = config()
    assert not secrets & (set(image.environment) | set(image.arguments))
    assert '**/.env*' in (PROJECT / '.dockerignore').read_text().splitlines()


def test_the_cuda_pins_replace_one_package() -> None:
    """The lock has onnxruntime-gpu of onnxruntime's minor version, CUDA and cuDNN; shared packages agree."""
    cpu, cuda = (_pins(PROJECT / name) for name in ('requirements.lock', 'requirements-cuda.lock'))
    assert 'onnxruntime' not in cuda
    assert _minor(cuda['onnxruntime-gpu']) == _minor(cpu['onnxruntime'])
    assert any(name.startswith('nvidia-cudnn') for name in cuda)
    assert any(name.startswith('nvidia-cublas') for name in cuda)
    shared = set(cpu) & set(cuda)
    assert 'numpy' in shared
    assert {name: cpu[name] for name in shared} == {name: cuda[name] for name in shared}


def _pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r'^([a-z0-9-]+)==([^ \\;]+)', path.read_text(), re.MULTILINE))


def _minor(version: str) -> str:
    return version.rpartition('.')[0]


# ---------------------------------------------------------------- the services


def test_every_service_is_bounded_and_rotates_its_log(compose: dict[str, Any]) -> None:
    """Every service restarts, has no capabilities, and has limits on memory, processes and log."""
    for name, service in compose['services'].items():
        assert service['restart'] == 'unless-stopped', name
        assert service['cap_drop'] == ['ALL'], name
        assert service['security_opt'] == ['no-new-privileges:true'], name
        assert service['logging']['options'].keys() == {'max-size', 'max-file'}, name
        assert {'memory', 'pids'} <= service['deploy']['resources']['limits'].keys(), name
        assert 'healthcheck' in service or name in OURS, f"{name}: only the node's image has a health check"
        assert not service.get('privileged'), name
        assert _interpolated(service['deploy']['resources']['limits']['memory'])[-1] in 'gm', name


def test_root_file_systems_are_read_only(compose: dict[str, Any]) -> None:
    """Only Label Studio has a writable root file system, as its image requires. No service has inline files."""
    writable = {name for name, service in compose['services'].items() if not service.get('read_only')}
    assert writable == {'label-studio'}
    assert 'configs' not in compose
    assert not any('configs' in service or 'secrets' in service for service in compose['services'].values())


@pytest.mark.parametrize('name', OURS)
def test_our_services_have_what_they_need(compose: dict[str, Any], name: str) -> None:
    """Each service has a temporary file system, its own volume, time to stop, real settings and its image variant."""
    service = compose['services'][name]
    assert [entry.split(':')[0] for entry in service['tmpfs']] == [config().environment['HOME']] == ['/tmp']
    (volume,) = service['volumes']
    assert volume.split(':')[1] == config().environment['DATA_FOLDER']
    assert int(service['stop_grace_period'].removesuffix('s')) >= 10
    assert set(service['environment']) <= SETTINGS
    assert service['environment']['DATA_FOLDER'] == config().environment['DATA_FOLDER']
    assert all(port.split(':')[-1] in (service['environment']['BACKEND_PORT'], '5005') for port in service['ports'])
    variant = service['build']['args']['VARIANT'] if isinstance(service['build'], dict) else 'cpu'
    assert service['image'].endswith(f':{variant}')
    assert service.get('environment', {}).get('DEVICE', 'cpu') == config(VARIANT=variant).environment.get(
        'DEVICE', 'cpu'
    )


def test_running_services_share_no_data_folder_and_no_port(compose: dict[str, Any]) -> None:
    """Services that run together have their own folders and ports. node-cuda runs instead of node."""
    together = [service for name, service in compose['services'].items() if name != 'node-cuda']
    ports = [port.rpartition(':')[0].rpartition(':')[2] for service in together for port in service.get('ports', [])]
    assert len(ports) == len(set(ports))
    named = [volume.split(':')[0] for service in together for volume in service['volumes'] if volume[0] != '.']
    assert len(named) == len(set(named))
    assert set(named) == set(compose['volumes'])


def test_mounted_files_exist(compose: dict[str, Any]) -> None:
    """Each mounted file exists; Docker would create a folder in place of a missing one."""
    mounted = [volume for service in compose['services'].values() for volume in service['volumes'] if volume[0] == '.']
    assert mounted
    for source, _, mode in (volume.split(':') for volume in mounted):
        assert (PROJECT / source).is_file(), source
        assert mode == 'ro'


def test_profiles_and_limits_are_documented(compose: dict[str, Any]) -> None:
    """docs/how-to/containers.md names each profile, and .env.example each variable with the same default."""
    page = (PROJECT / 'docs' / 'how-to' / 'containers.md').read_text()
    profiles = {profile for service in compose['services'].values() for profile in service.get('profiles', [])}
    assert profiles == {'cuda', 'replicas', 'mock', 'monitoring'}
    for profile in profiles:
        assert f'`{profile}`' in page
    example = (PROJECT / '.env.example').read_text()
    variables = dict(re.findall(r'\$\{(\w+):-([^}]*)\}', (PROJECT / 'docker-compose.yml').read_text()))
    assert len(variables) == 4
    for name, default in variables.items():
        assert f'# {name}={default}\n' in example or Settings.model_fields[name.lower()].default == default, name


def test_the_replicas_are_those_of_the_proxy(compose: dict[str, Any]) -> None:
    """HAProxy's servers are services with the node's port, and its own port is published."""
    text = (PROJECT / 'deploy' / 'proxy' / 'haproxy.cfg').read_text()
    servers = set(re.findall(r'^ +server \S+ (\S+):(\d+) ', text, re.MULTILINE))
    assert servers == {(name, '8004') for name in compose['services']['proxy']['depends_on']}
    assert servers == {('node', '8004'), ('node-2', '8004')}
    (bound,) = re.findall(r'^ +bind :(\d+)$', text, re.MULTILINE)
    assert [port.split(':')[1] for port in compose['services']['proxy']['ports']] == [bound]


def test_monitoring_finds_the_nodes_and_its_files(compose: dict[str, Any]) -> None:
    """Prometheus scrapes the nodes' ports and reads the rules beside it; Grafana queries Prometheus."""
    folder = PROJECT / 'deploy' / 'monitoring'
    mounts = {
        name: dict(volume.split(':')[:2][::-1] for volume in compose['services'][name]['volumes'])
        for name in ('prometheus', 'grafana')
    }
    prometheus = yaml.safe_load((folder / 'prometheus-compose.yml').read_text())
    (job,) = prometheus['scrape_configs']
    (known,), (asked,) = job['static_configs'], job['dns_sd_configs']
    assert known['targets'] == ['node:8004']
    assert (asked['names'], asked['port']) == (['node-2'], 8004)
    assert {f'/etc/prometheus/{name}' for name in prometheus['rule_files']} < set(mounts['prometheus'])
    (source,) = yaml.safe_load((folder / 'grafana-datasources.yml').read_text())['datasources']
    assert source['url'] == 'http://prometheus:9090'
    (provider,) = yaml.safe_load((folder / 'grafana-dashboards.yml').read_text())['providers']
    home = compose['services']['grafana']['environment']['GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH']
    assert provider['options']['path'] == str(Path(home).parent)
    assert home in mounts['grafana']


def _interpolated(text: str) -> str:
    """Replace the variables by their defaults."""
    return re.sub(r'\$\{\w+:-([^}]*)\}', r'\1', text)
