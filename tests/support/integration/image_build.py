"""Build and run the project's image without Docker: its instructions run in overlays over this machine's files.

Each stage is an overlay. This machine stands for the base image, so it must be similar to Debian 12. `python` is the
Python that runs the tests. All mounts are in mount namespaces that end with their process.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from benchmarks.support.processes import PROJECT
from tests.support.dockerfile import DEFAULT_PATH, Config, Instruction, Stage, copied, lineage, stages

_PASSED_ON: Final = ('PIP_', 'SSL_', 'REQUESTS_', 'HTTP_PROXY', 'HTTPS_PROXY', 'http_proxy', 'https_proxy')
"""Prefixes of the environment variables that pip needs to reach this machine's registry."""


@dataclass(frozen=True, slots=True)
class Layers:
    """A stack of file trees, the topmost first, and a folder for written files."""

    lower: tuple[Path, ...]
    folder: Path

    @property
    def upper(self) -> Path:
        return self.folder / 'upper'

    @property
    def root(self) -> Path:
        return self.folder / 'root'

    def make(self) -> 'Layers':
        for name in ('upper', 'work', 'root'):
            (self.folder / name).mkdir(parents=True)
        return self

    def enter(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: str = '/',
        prepare: Sequence[str] = (),
        drop: Sequence[str] = (),
    ) -> list[str]:
        """Return the command line that runs a command with these files as its root and with a `/tmp` of its own.

        :param prepare: shell commands to run after the mounts and before the change of root.
        :param drop: command that drops privileges and runs the rest of its command line.
        """
        lower = ':'.join(map(str, self.lower))
        options = f'lowerdir={lower},upperdir={self.upper},workdir={self.folder / "work"}'
        inside = [f'{name}={value}' for name, value in environment.items()]
        entered = ['chroot', str(self.root), *drop, 'env', '-i', '-C', folder, *inside, *command]
        script = [
            'set -e',
            shlex.join(['mount', '-t', 'overlay', 'overlay', '-o', options, str(self.root)]),
            *(shlex.join(['mount', '--rbind', f'/{name}', str(self.root / name)]) for name in ('proc', 'sys', 'dev')),
            shlex.join(
                ['mount', '-t', 'tmpfs', '-o', 'mode=1777,nosuid,nodev,noexec', 'tmpfs', str(self.root / 'tmp')]
            ),
            *prepare,
            'exec ' + shlex.join(entered),
        ]
        return ['unshare', '--mount', 'sh', '-c', '\n'.join(script)]

    def run(self, command: Sequence[str], **options: object) -> None:
        """Run a command.

        :raises AssertionError: the command failed; the message has its output.
        """
        line = self.enter(command, **options)  # type: ignore[arg-type]
        ended = subprocess.run(line, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, f'{shlex.join(command)}:\n{ended.stdout}\n{ended.stderr}'


@dataclass(slots=True)
class Image:
    """A built image.

    :param layers: files of the image.
    :param folder: folder for the files that containers write.
    """

    config: Config
    layers: tuple[Path, ...]
    folder: Path
    _containers: int = field(default=0)

    def command_line(
        self, command: Sequence[str], data: Path, *, entrypoint: Sequence[str] = (), **environment: object
    ) -> list[str]:
        """Return the command line of a container, as docker-compose.yml runs it.

        The root file system is read-only, `/tmp` is a tmpfs and `/data` a volume. The container has no capabilities
        and cannot gain any.
        """
        self._containers += 1
        layers = Layers(self.layers, self.folder / f'container-{self._containers}').make()
        uid, gid = self.config.user.split(':')
        data.mkdir(parents=True, exist_ok=True)
        os.chown(data, int(uid), int(gid))
        said = {name: str(value) for name, value in environment.items()}
        return layers.enter(
            [*(entrypoint or self.config.entrypoint), *command],
            environment=self.config.environment | said,
            folder=self.config.folder,
            prepare=[
                shlex.join(['mount', '--bind', str(data), str(layers.root / 'data')]),
                shlex.join(['mount', '-o', 'remount,ro', str(layers.root)]),
            ],
            drop=[
                *('setpriv', '--reuid', uid, '--regid', gid, '--clear-groups'),
                *('--inh-caps=-all', '--bounding-set=-all', '--no-new-privs'),
            ],
        )

    @contextmanager
    def running(self, data: Path, *command: str, **environment: object) -> Iterator[subprocess.Popen[bytes]]:
        """Run a command in a container, by default CMD."""
        log = self.log(data)
        line = self.command_line(command or self.config.command, data, entrypoint=(), **environment)
        with log.open('wb') as sink:
            process = subprocess.Popen(line, stdout=sink, stderr=sink)
        try:
            yield process
            assert process.poll() is None or process.returncode == 0, log.read_text()
        finally:
            process.kill()
            process.wait()

    def log(self, data: Path) -> Path:
        """Return the path of the output of the container with this data folder."""
        return self.folder / f'{data.name}.log'

    def stop(self, process: subprocess.Popen[bytes], seconds: float) -> int:
        """Send STOPSIGNAL, and return the exit status.

        :raises subprocess.TimeoutExpired: the container did not end in time.
        """
        process.send_signal(signal.Signals[self.config.stop_signal])
        return process.wait(seconds)

    def is_healthy(self, data: Path, **environment: object) -> bool:
        """Run HEALTHCHECK in another container, which has the same network, and return True if it succeeds."""
        interpreter, *arguments = self.config.health
        line = self.command_line(arguments, data, entrypoint=[interpreter], **environment)
        return subprocess.run(line, capture_output=True, check=False, timeout=30).returncode == 0


def build(folder: Path, **build_arguments: str) -> Image:
    """Build the image of this checkout.

    :param folder: folder for the layers, about 2 GB. Its file system must differ from that of `/`, since layers must
        not overlap with it.
    """
    assert os.geteuid() == 0, 'building the image needs root, for the mounts'
    all_stages = stages(PROJECT / 'Dockerfile', **build_arguments)
    needed = _needed(all_stages, all_stages[-1])
    base = _base(folder / 'base')
    built: dict[str, tuple[Path, ...]] = {}
    for number, stage in enumerate(entry for entry in all_stages if entry.name in needed):
        below = built.get(stage.base, (base, Path('/')))
        layers = Layers(below, folder / f'stage-{number}').make()
        config = Config()
        for earlier in lineage(all_stages, stage)[:-1]:
            for instruction in earlier.instructions:
                config.apply(instruction)
        takes = copied(stage)
        for instruction in stage.instructions:
            config.apply(instruction)
            if instruction.name == 'RUN':
                _run(layers, instruction, config)
            elif instruction.name == 'COPY':
                origin, sources, target = next(takes)
                _copy(layers, None if origin is None else built[origin], sources, target)
            elif instruction.name == 'WORKDIR':
                (layers.upper / config.folder.lstrip('/')).mkdir(parents=True, exist_ok=True)
        built[stage.name] = (layers.upper, *below)
    return Image(config, built[all_stages[-1].name], folder)


def _needed(all_stages: list[Stage], last: Stage) -> set[str]:
    """Return the names of the stages on which the last one depends."""
    names: set[str] = set()
    for stage in lineage(all_stages, last):
        names.add(stage.name)
        for origin, _, _ in copied(stage):
            names |= (
                _needed(all_stages, next(entry for entry in all_stages if entry.name == origin)) if origin else set()
            )
    return names


def _base(folder: Path) -> Path:
    """Make a layer that turns this machine into the base image: Python in /usr/local, and no user 1000."""
    layers = Layers((Path('/'),), folder).make()
    python = Path(sys.base_prefix)
    open_folders = [str(parent) for parent in (python, *python.parents) if parent != Path('/')]
    script = [
        shlex.join(['chmod', 'a+rx', *open_folders]),
        'rm -rf /usr/local/lib/python3.11',
        f'ln -s {python}/lib/python3.11 /usr/local/lib/',
        f'ln -sf {python}/bin/python3.11 /usr/local/bin/python',
        f'ln -sf {python}/bin/pip3.11 /usr/local/bin/pip',
        'for name in $(getent passwd 1000 | cut -d: -f1); do userdel $name; done',
        'for name in $(getent group 1000 | cut -d: -f1); do groupdel $name; done',
    ]
    layers.run(['sh', '-ec', '\n'.join(script)], environment={'PATH': DEFAULT_PATH})
    return layers.upper


def _run(layers: Layers, instruction: Instruction, config: Config) -> None:
    machine = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    environment = machine | config.arguments | config.environment
    environment.setdefault('HOME', '/root')
    layers.run(['/bin/sh', '-c', instruction.arguments], environment=environment, folder=config.folder)


def _copy(layers: Layers, origin: tuple[Path, ...] | None, sources: list[str], target: str) -> None:
    """Copy from the build context with root as the owner, or from the files of another stage."""
    script = ['set -e']
    tree = PROJECT
    if origin is not None:
        tree = layers.root  # empty between runs
        options = f'lowerdir={":".join(map(str, origin))}'
        script.append(shlex.join(['mount', '-t', 'overlay', 'overlay', '-o', options, str(tree)]))
    for source in sources:
        found = tree / source.lstrip('/')
        into = layers.upper / target.lstrip('/')
        if target.endswith('/'):
            into /= found.name
        into.parent.mkdir(parents=True, exist_ok=True)
        owner = ['--no-preserve=ownership'] if origin is None else []
        script.append(shlex.join(['cp', '--archive', *owner, '--no-target-directory', str(found), str(into)]))
    subprocess.run(['unshare', '--mount', 'sh', '-c', '\n'.join(script)], check=True)
