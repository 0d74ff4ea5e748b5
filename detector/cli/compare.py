"""`wholebody model compare`: run two models on the same images and measure how well they find persons."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import track

from detector.datasets.coco import read_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import Person
from detector.engine.pose_engine import EngineOptions, PoseEngine
from detector.errors import ExtraMissing, InvalidRequest
from detector.label_studio.evaluation.evaluation import Evaluated, Evaluation, PartFigures, evaluate
from detector.label_studio.evaluation.report import shown, to_json
from detector.models.embedded import EMBEDDED_NAMES
from detector.models.library import ModelLibrary
from detector.models.package import ModelPackage, open_package
from detector.models.store import ModelStore
from detector.pose import images
from detector.pose.images import Image
from detector.settings import Settings
from detector.system.scratch import scratch_folder
from detector.wording import counted

from .common import image_files, print_table, write_text

_METRICS: Final = ('oks', 'ap')
"""Fields of `PartFigures` in the printed table; the JSON file has all."""


@dataclass(slots=True, kw_only=True)
class _Run:
    """The persons whom a model finds in the images.

    :param seconds: time of all inferences.
    """

    name: str
    persons: list[list[Person]] = field(default_factory=list)
    seconds: float = 0

    @property
    def milliseconds_per_person(self) -> float | None:
        found = sum(len(persons) for persons in self.persons)
        return 1000 * self.seconds / found if found else None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """An image and its annotated persons, if they are known."""

    path: Path
    truth: LabelledImage | None

    def read(self, settings: Settings) -> Image:
        """Decode the image.

        :raises InvalidRequest: its size is not the annotated one.
        """
        image = images.read_image(self.path, max_pixels=settings.max_image_pixels)
        height, width = image.shape[:2]
        if self.truth is not None and self.truth.size != (width, height):
            stated = '×'.join(map(str, self.truth.size))
            raise InvalidRequest(f'{self.path} has {width}×{height} pixels, but the annotations are for {stated}')
        return image


def run(
    settings: Settings, models: tuple[str, str], folder: Path, *, truth: Path | None, json_file: Path | None
) -> None:
    """Compare two models and print the figures.

    :param models: each a package, the name or version of an installed model, `starter` or `test-card`.
    :param truth: COCO-WholeBody file with the persons; without it, the first model's persons are the reference.
    :raises WholebodyError: a model, an image or the annotations cannot be used, or an extra is missing.
    """
    if find_spec('faster_coco_eval') is None:
        raise ExtraMissing('faster-coco-eval', extra='evaluate')
    samples = list(_samples(folder, truth))
    with ExitStack() as stack:
        scratches = [stack.enter_context(scratch_folder()) for _ in models]
        packages = [_package(settings, *found) for found in zip(models, scratches, strict=True)]
        if packages[0].model_version == packages[1].model_version:
            raise InvalidRequest(f'both models are {packages[0].model_version}; name two different ones')
        runs = [_detect(settings, package, samples) for package in packages]
    if truth is None:
        reference, judged = runs[0].persons, runs[1:]
        title = f'{counted(len(samples), "image")}, agreement with {runs[0].name}'
    else:
        reference, judged = [_annotated(sample) for sample in samples], runs
        title = f'{counted(len(samples), "image")} with {counted(sum(map(len, reference)), "person")}'
    evaluations = [_evaluate(one, samples, reference) for one in judged]
    print(title)
    _print(runs, evaluations)
    if json_file is not None:
        write_text(json_file, _to_json(runs, evaluations, None if truth else runs[0].name))


def _samples(folder: Path, truth: Path | None) -> Iterator[_Sample]:
    files = {file.relative_to(folder).as_posix(): file for file in image_files(folder)}
    if truth is None:
        yield from (_Sample(path=file, truth=None) for file in files.values())
        return
    annotated = read_coco(truth)
    missing = [image.file_name for image in annotated if image.file_name not in files]
    if missing or not annotated:
        raise InvalidRequest(f'{folder} lacks images of {truth}: {", ".join(missing[:5]) or "it names none"}')
    unused = len(files) - len(annotated)
    if unused:
        verbs = ('has', 'is') if unused == 1 else ('have', 'are')
        print(f'{counted(unused, "image")} in {folder} {verbs[0]} no entry in {truth} and {verbs[1]} not used')
    yield from (_Sample(path=files[image.file_name], truth=image) for image in annotated)


def _package(settings: Settings, model: str, scratch: Path) -> ModelPackage:
    store = ModelStore(settings.data_folder)
    if Path(model).exists():
        return store.open(Path(model), scratch, mode=settings.mode)
    if model in EMBEDDED_NAMES:
        return store.embedded(model)
    return open_package(Path(ModelLibrary(store, settings.model_catalogue).find(model).folder))


def _detect(settings: Settings, package: ModelPackage, samples: Sequence[_Sample]) -> _Run:
    engine = PoseEngine(package, EngineOptions.of(settings))
    engine.check()
    run = _Run(name=package.model_version)
    for sample in track(samples, run.name, console=Console(stderr=True), transient=True):
        image = sample.read(settings)
        start = time.perf_counter()
        poses = engine.poses(image)
        run.seconds += time.perf_counter() - start
        run.persons.append([Person.of(pose, threshold=settings.confidence_threshold) for pose in poses])
    return run


def _annotated(sample: _Sample) -> list[Person]:
    """Return the annotated persons; regions that COCO marks as a crowd are not single persons."""
    assert sample.truth is not None
    return [person for person in sample.truth.persons if not person.extra.get('coco', {}).get('iscrowd')]


def _evaluate(run: _Run, samples: Sequence[_Sample], reference: Sequence[Sequence[Person]]) -> Evaluation:
    return evaluate(
        [
            Evaluated(name=str(sample.path), people=people, predicted=predicted, model_version=run.name)
            for sample, people, predicted in zip(samples, reference, run.persons, strict=True)
        ]
    )


def _print(runs: Sequence[_Run], evaluations: Sequence[Evaluation]) -> None:
    by_name = {evaluation.model_version: evaluation for evaluation in evaluations}
    rows = []
    for run in runs:
        found = by_name.get(run.name)
        persons = sum(map(len, run.persons))
        cells = (persons, found and found.people - found.missed, found and found.missed, found and found.surplus)
        per_person = run.milliseconds_per_person
        time_cell = '–' if per_person is None else f'{per_person:.0f}'
        rows.append((run.name, *map(shown, cells), f'{1000 * run.seconds / len(run.persons):.0f}', time_cell))
    header = ('model', 'persons', 'found', 'missed', 'false', 'ms an image', 'ms a person')
    print_table(header, rows, numeric=True)
    print()
    titles = [f'{metric} {evaluation.model_version}' for metric in _METRICS for evaluation in evaluations]
    parts = zip(*(evaluation.parts for evaluation in evaluations), strict=True)
    print_table(('part', 'people', *titles), [_part_row(found) for found in parts], numeric=True)


def _part_row(parts: Sequence[PartFigures]) -> list[str]:
    figures = [shown(getattr(part, metric)) for metric in _METRICS for part in parts]
    return [parts[0].name, str(parts[0].people), *figures]


def _to_json(runs: Sequence[_Run], evaluations: Sequence[Evaluation], reference: str | None) -> str:
    times = {run.name: {'seconds': run.seconds, 'milliseconds_per_person': run.milliseconds_per_person} for run in runs}
    figures = {'reference': reference, 'times': times, 'evaluations': [to_json(found) for found in evaluations]}
    return json.dumps(figures, indent=1) + '\n'
