"""Compare the engine with rtmlib and with the bare networks, on each runtime.

    uv run --extra plot python -m benchmarks.engine PACKAGE [--persons 0,1,4,10] [--rounds 10] [-o FILE.json]

The options, the table and the plot are those of `wholebody bench`. rtmlib runs as it comes, which is on ONNX Runtime,
and on the other runtimes. On OpenVINO it states no precision, so OpenVINO uses bf16 on CPUs that have it. The bare
networks get inputs that were prepared in advance: they are the limit of the engine.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, get_args

import numpy as np
import typer

from detector.cli.bench.command import (
    ImagesOption,
    IntervalOption,
    OutputOption,
    PackageArgument,
    PersonsOption,
    RoundsOption,
    RuntimesOption,
    run,
)
from detector.cli.bench.frames import Case, Loaded, LoadedEngine, Variant, fixed_boxes, stacked
from detector.cli.bench.measuring import Comparison, Report, engine_comparison
from detector.engine.pose_engine import EngineOptions
from detector.engine.pose_estimator import BATCH_SIZES
from detector.engine.runtimes import Backend
from detector.engine.thresholds import Thresholds
from detector.models.package import ModelPackage
from detector.pose.images import Image
from detector.pose.pose import FloatArray


@dataclass(frozen=True, kw_only=True)
class Ours(Variant):
    """The engine."""

    @property
    def name(self) -> str:
        return f'ours, {self.backend_type} {self.precision}'


@dataclass(frozen=True, kw_only=True)
class Bare(Variant):
    """The networks alone, on inputs prepared in advance."""

    @property
    def name(self) -> str:
        return f'bare networks, {self.backend_type} {self.precision}'

    def load(self, package: ModelPackage, pictures: Sequence[Image]) -> 'Loaded':
        return _LoadedBare(self, package, pictures)


@dataclass(frozen=True, kw_only=True)
class Rtmlib(Variant):
    """rtmlib, which runs the person detector on every frame, whatever the interval.

    In images without persons, it runs the pose estimator on the whole image.
    """

    @property
    def name(self) -> str:
        return 'rtmlib as it comes' if self.backend_type == 'onnxruntime' else f'rtmlib on {self.backend_type}'

    def load(self, package: ModelPackage, pictures: Sequence[Image]) -> 'Loaded':
        with contextlib.redirect_stdout(io.StringIO()):  # rtmlib prints what it loads
            return _LoadedRtmlib(self, package, pictures)


RIVAL: Final = Rtmlib(backend_type='onnxruntime').name
OURS: Final = Ours(backend_type='onnxruntime').name


def compare(package: ModelPackage, runtimes: Sequence[Backend] | None) -> Comparison:
    """Compare rtmlib on each runtime, the engine and the bare networks with each runtime and precision.

    :param runtimes: the runtimes to measure; all installed ones if None.
    """
    engine = engine_comparison(package, runtimes).variants
    rtmlib = [Rtmlib(backend_type=one.backend_type) for one in engine if one.precision == 'f32']
    others = [kind(backend_type=one.backend_type, precision=one.precision) for kind in (Ours, Bare) for one in engine]
    return Comparison(variants=[*rtmlib, *others], rival=RIVAL, reference=OURS)


def main(
    package: PackageArgument,
    persons: PersonsOption = '1,4,10',
    image: ImagesOption = None,
    interval: IntervalOption = 5,
    runtimes: RuntimesOption = None,
    rounds: RoundsOption = 10,
    output: OutputOption = None,
) -> None:
    """Compare the engine with rtmlib and with the bare networks, on this machine."""
    tables = [('how many times as fast as rtmlib on the same runtime', same_runtime_cell)]
    run(compare, package, persons, image or [], interval, runtimes, rounds, output, tables)


def same_runtime_cell(report: Report, name: str, case: Case) -> str:
    """Format the ratio of an engine variant to rtmlib on the same runtime; empty for other variants."""
    for backend in (backend for backend in get_args(Backend) if name.startswith(f'ours, {backend} ')):
        ratio = report.ratio(name, case, Rtmlib(backend_type=backend).name)
        return '' if ratio is None else f'×{ratio:.2f}'
    return ''


class _LoadedBare(Loaded):
    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        super().__init__(pictures)
        ours = LoadedEngine(variant, package, pictures).engine
        self._detector, self._estimator, self._batch_sizes = ours.detector, ours.estimator, ours.estimator.batch_sizes
        width, height = package.wholebody.detector.input_size
        self._frame = np.full((1, 3, height, width), 114, dtype=np.float32)
        width, height = package.wholebody.estimator.input_size
        noise = np.random.default_rng(0).normal(0, 1, (BATCH_SIZES[0], 3, height, width))
        self._crops = noise.astype(np.float32)

    def frame(self, picture: Image, case: Case) -> None:
        self._detector.runtime.run(self._frame)
        for _ in range(case.interval):
            left = case.persons
            while left:
                size = next(size for size in self._batch_sizes if size <= left)
                self._estimator.runtime.run(self._crops[:size])
                left -= size

    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        return []


class _LoadedRtmlib(Loaded):
    """rtmlib's classes. The pictures are converted in advance to the colour orders that the package states."""

    def __init__(self, variant: Variant, package: ModelPackage, pictures: Sequence[Image]) -> None:
        from rtmlib import YOLOX, RTMPose

        super().__init__(pictures)
        detector, estimator = package.wholebody.detector, package.wholebody.estimator
        width, height = detector.input_size
        backend = variant.backend_type
        threshold = Thresholds.of(package, EngineOptions()).person
        self._detector = YOLOX(str(package.detector_path), (height, width), score_thr=threshold, backend=backend)
        self._estimator = RTMPose(
            str(package.estimator_path), estimator.input_size, mean=estimator.mean, std=estimator.std, backend=backend
        )
        both = {id(picture): {'RGB': picture, 'BGR': np.ascontiguousarray(picture[..., ::-1])} for picture in pictures}
        self._for_detector = {key: orders[detector.color_order] for key, orders in both.items()}
        self._for_estimator = {key: orders[estimator.color_order] for key, orders in both.items()}

    def frame(self, picture: Image, case: Case) -> None:
        for _ in range(case.interval):
            self._detector(self._for_detector[id(picture)])
            self._estimator(self._for_estimator[id(picture)], fixed_boxes(picture, case.persons))

    def keypoints(self, boxes: Sequence[FloatArray]) -> list[FloatArray]:
        found = []
        for picture, wanted in zip(self.pictures, boxes, strict=True):
            limit = np.array([picture.shape[1] - 1, picture.shape[0] - 1])
            keypoints = [self._estimator(self._for_estimator[id(picture)], box[None])[0][0] for box in wanted]
            found.append(stacked([np.clip(points, 0, limit).astype(np.float32) for points in keypoints]))
        return found


if __name__ == '__main__':
    typer.run(main)
