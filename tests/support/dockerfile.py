"""Read the project's Dockerfile as Docker does: stages, build arguments and the configuration of the image."""

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

from benchmarks.support.processes import PROJECT

DEFAULT_PATH = '/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin'


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction with its lines joined.

    :param arguments: arguments as in the file, with unreplaced variables.
    """

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage: a FROM and the instructions up to the next FROM.

    :param base: name of an image or of an earlier stage.
    """

    name: str
    base: str
    instructions: tuple[Instruction, ...]


@dataclass(slots=True)
class Config:
    """Configuration of an image for the processes that run in it."""

    environment: dict[str, str] = field(default_factory=lambda: {'PATH': DEFAULT_PATH})
    arguments: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    folder: str = '/'
    user: str = '0:0'
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    stop_signal: str = 'SIGTERM'
    ports: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)

    def apply(self, instruction: Instruction) -> None:
        """Apply an instruction to the configuration; RUN and COPY leave it unchanged."""
        text = replaced(instruction.arguments, self.environment | self.arguments)
        match instruction.name:
            case 'ENV':
                self.environment |= _pairs(text)
            case 'LABEL':
                self.labels |= _pairs(text)
            case 'ARG':
                name, _, default = text.partition('=')
                self.arguments.setdefault(name, default)
            case 'WORKDIR':
                self.folder = text
            case 'USER':
                self.user = text
            case 'ENTRYPOINT':
                self.entrypoint = json.loads(text)
            case 'CMD':
                self.command = json.loads(text)
            case 'HEALTHCHECK':
                self.health = json.loads(instruction.arguments.partition(' CMD ')[2])
            case 'STOPSIGNAL':
                self.stop_signal = text
            case 'EXPOSE':
                self.ports += text.split()
            case 'VOLUME':
                self.volumes += text.split()


def stages(path: Path = PROJECT / 'Dockerfile', **build_arguments: str) -> list[Stage]:
    """Return the stages in order, with the build arguments in their FROM lines replaced."""
    found: list[Stage] = []
    arguments: dict[str, str] = {}
    pending: list[Instruction] = []
    with path.open('rb') as file:
        lines = DockerfileParser(fileobj=file).structure
    for line in reversed(lines):
        instruction = Instruction(line['instruction'].upper(), line['value'])
        if instruction.name == 'FROM':
            base, _, name = instruction.arguments.partition(' AS ')
            found.insert(0, Stage(name, base, tuple(reversed(pending))))
            pending.clear()
        elif instruction.name != 'COMMENT':
            pending.append(instruction)
    for instruction in reversed(pending):
        assert instruction.name == 'ARG'
        name, _, default = instruction.arguments.partition('=')
        arguments[name] = build_arguments.get(name, default)
    return [Stage(stage.name, replaced(stage.base, arguments), stage.instructions) for stage in found]


def lineage(all_stages: list[Stage], stage: Stage) -> list[Stage]:
    """Return the stages on which a stage builds, in order, and the stage itself."""
    base = next((earlier for earlier in all_stages if earlier.name == stage.base), None)
    return [stage] if base is None else [*lineage(all_stages, base), stage]


def config(path: Path = PROJECT / 'Dockerfile', **build_arguments: str) -> Config:
    """Return the configuration of the last stage."""
    all_stages = stages(path, **build_arguments)
    said = Config()
    for stage in lineage(all_stages, all_stages[-1]):
        for instruction in stage.instructions:
            said.apply(instruction)
    return said


def copied(stage: Stage) -> Iterator[tuple[str | None, list[str], str]]:
    """Yield for each COPY the stage that it copies from (None for the build context), its sources and its target."""
    for instruction in stage.instructions:
        if instruction.name == 'COPY':
            words = shlex.split(instruction.arguments)
            options = [word for word in words if word.startswith('--')]
            *sources, target = [word for word in words if not word.startswith('--')]
            origin = next((option.removeprefix('--from=') for option in options if option.startswith('--from=')), None)
            assert len(options) == (origin is not None), f'the tests do not know the options of {instruction}'
            yield origin, sources, target


def context(folder: Path = PROJECT) -> set[str]:
    """Return the top-level files and folders that .dockerignore admits to the build context."""
    patterns = (folder / '.dockerignore').read_text().splitlines()
    assert patterns[0] == '*', '.dockerignore must exclude everything that it does not name'
    return {pattern[1:] for pattern in patterns if pattern.startswith('!')}


def replaced(text: str, values: dict[str, str]) -> str:
    """Replace `$NAME` and `${NAME}` by their values; an unknown name becomes an empty text."""
    return re.sub(r'\$(?:\{(\w+)\}|(\w+))', lambda match: values.get(match[1] or match[2], ''), text)


def _pairs(text: str) -> dict[str, str]:
    return dict(word.split('=', 1) for word in shlex.split(text))
