"""Measurement of runtimes and precisions for a package: their speed, and their agreement with f32. Results are kept."""

import hashlib
import logging
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache as memoized
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from detector.errors import RuntimeUnavailable
from detector.models.package import ModelPackage, file_sha256
from detector.system import memory
from detector.system.json_file import read_object, write_object

from .agreement import PHOTOGRAPHS, Agreement, People, compare, find_people, photographs
from .runtimes import (
    Backend,
    Precision,
    Runtime,
    cpu_flags,
    installed_version,
    open_runtime,
    openvino_capabilities,
    precisions,
    reason_of,
    usable_cpus,
)
from .thresholds import Thresholds

log = logging.getLogger('wholebody.engine')

CLEARLY_FASTER: Final = 0.97
"""A runtime or precision is chosen over the usual one if it takes at most this share of its time."""
_ROUNDS: Final = 3
_MEASURING_SECONDS: Final = 2.5
"""Time after which no further round of a pair begins, in seconds: a busy or slow machine must not delay its first
answer."""
_MEASUREMENTS: Final = 'runtimes.json'
_MAX_KEPT: Final = 64
"""Number of measurements that are kept."""


class Pair(NamedTuple):
    """A runtime and a precision."""

    backend_type: Backend
    precision: Precision

    def __str__(self) -> str:
        return f'{self.backend_type} {self.precision}'


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured of a package with one pair.

    :param milliseconds: time of a frame of two persons.
    :param agreement: agreement with f32; None for f32 itself, and for precisions that are not clearly faster or fail on
        photographs.
    """

    pair: Pair
    milliseconds: float
    agreement: Agreement | None = None


_KEPT: Final = TypeAdapter(list[Measured])
"""Form of the measurements of a package in the file."""


def recalled_or_measured(
    package: ModelPackage,
    backends: Sequence[Backend],
    *,
    device: str,
    reduced: bool,
    thresholds: Thresholds,
    cache: Path | None,
) -> list[Measured]:
    """Return what was measured of a package on this machine earlier, or measure it.

    :param reduced: True to measure also the lower precisions that the device supports.
    :param thresholds: see `agreement.find_people`.
    :param cache: folder that keeps the results; None: they are not kept.
    :return: see `measure`.
    :raises RuntimeUnavailable: no runtime works in f32.
    """
    key = _key(package, backends, device, reduced)
    known = {} if cache is None else read_object(cache / _MEASUREMENTS) or {}
    found = _parsed(known.pop(key, None))
    if not found:
        pairs = _pairs(backends, device, reduced)
        log.info('%s: measuring which is the fastest of %s', package.model_version, ', '.join(map(str, pairs)))
        found = measure(package, pairs, device=device, thresholds=thresholds)
        _remember(cache, known | {key: [asdict(one) for one in found]})
    return found


def _pairs(backends: Sequence[Backend], device: str, reduced: bool) -> list[Pair]:
    """Return the pairs to measure, those in f32 first."""
    supported = [Pair(backend, one) for backend in backends if reduced for one in precisions(backend, device)]
    return [Pair(backend, 'f32') for backend in backends] + [pair for pair in supported if pair.precision != 'f32']


def measure(package: ModelPackage, pairs: Sequence[Pair], *, device: str, thresholds: Thresholds) -> list[Measured]:
    """Time a detection and two poses with each pair, one pair after the other.

    For each pair that is clearly faster than f32, the persons in photographs are compared with those that f32 finds.

    :param pairs: those in f32 first.
    :param thresholds: see `agreement.find_people`.
    :return: the pairs that work, in their order.
    :raises RuntimeUnavailable: no pair in f32 works.
    """
    found: list[Measured] = []
    failures = []
    for pair in pairs:
        try:
            found.append(Measured(pair=pair, milliseconds=_time(package, _open(package, pair, device))))
        except Exception as error:  # each runtime raises its own types; another pair may work
            failures.append(f'{pair}: {error}')
        memory.give_back()  # only one pair at a time holds the networks
    if not any(one.pair.precision == 'f32' for one in found):
        raise RuntimeUnavailable(f'no runtime runs {package.model_version} in f32: {"; ".join(failures)[:600]}')
    usual = fastest_in_f32(found)
    faster = [one for one in found if one.pair.precision != 'f32' and is_clearly_faster(one, usual)]
    if not faster:
        return found
    images = photographs()
    people: dict[Pair, list[People]] = {}
    for pair in (one.pair for one in (usual, *faster)):
        try:
            people[pair] = find_people(package, images, *_open(package, pair, device), thresholds=thresholds)
        except Exception as error:  # the check of the engine names the fault of a package
            log.warning('%s cannot be run on photographs with %s: %s', package.model_version, pair, reason_of(error))
        memory.give_back()
    reference = people.pop(usual.pair, None)
    if reference is None:
        return found
    agreements = {pair: compare(seen, reference) for pair, seen in people.items()}
    return [replace(one, agreement=agreements.get(one.pair)) for one in found]


def fastest_in_f32(found: Sequence[Measured]) -> Measured:
    """Return the fastest pair in f32; the first one, which is the usual one, if no other is clearly faster."""
    in_f32 = [one for one in found if one.pair.precision == 'f32']
    best = min(in_f32, key=lambda one: one.milliseconds)
    return best if is_clearly_faster(best, in_f32[0]) else in_f32[0]


def is_clearly_faster(one: Measured, other: Measured) -> bool:
    """Return True if a pair is faster than another one by more than the measurement may err."""
    return one.milliseconds <= CLEARLY_FASTER * other.milliseconds


def _open(package: ModelPackage, pair: Pair, device: str) -> tuple[Runtime, Runtime]:
    """Load the person detector and the pose estimator of a package."""
    detector, estimator = (
        open_runtime(path, backend_type=pair.backend_type, device=device, precision=pair.precision)
        for path in (package.detector_path, package.estimator_path)
    )
    return detector, estimator


def _time(package: ModelPackage, networks: tuple[Runtime, Runtime]) -> float:
    """Return the time of a detection and two poses in milliseconds.

    :return: the median of several rounds; of one round if that takes long.
    """
    detector, estimator = networks
    spec = package.wholebody
    image, person = _noise(spec.detector.input_size), _noise(spec.estimator.input_size)
    detector.run(image)
    estimator.run(person)
    times: list[float] = []
    begun = time.perf_counter()
    while len(times) < _ROUNDS and (not times or time.perf_counter() - begun < _MEASURING_SECONDS):
        start = time.perf_counter()
        detector.run(image)
        for _ in range(2):
            estimator.run(person)
        times.append(1000 * (time.perf_counter() - start))
    return round(median(times), 1)


def _noise(size: tuple[int, int]) -> Any:
    return np.random.default_rng(0).normal(0, 1, (1, 3, size[1], size[0])).astype(np.float32)


def _key(package: ModelPackage, backends: Sequence[Backend], device: str, reduced: bool) -> str:
    """Return a hash of everything that a measurement depends on: package, photographs, machine, CPUs, versions."""
    # of the CPU, the flags tell; loading OpenVINO only to ask takes long
    capabilities = openvino_capabilities(device) if device != 'cpu' and 'openvino' in backends else []
    parts = [
        package.wholebody.model_dump_json(),
        package.conf_threshold,
        file_sha256(PHOTOGRAPHS),
        device,
        capabilities,
        processor(),
        usable_cpus(),
        reduced,
        *backends,
        *(installed_version(name) for name in backends),
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


@memoized
def processor() -> str:
    """Return a text that identifies the model of the processor."""
    return f'{platform.processor()} {platform.machine()} {" ".join(sorted(cpu_flags()))}'


def _parsed(kept: Any) -> list[Measured]:
    """Return an earlier measurement; an empty list if it is missing or damaged."""
    try:
        found = _KEPT.validate_python(kept)
    except ValidationError:
        return []
    return found if any(one.pair.precision == 'f32' for one in found) else []


def _remember(cache: Path | None, measured: dict[str, Any]) -> None:
    if cache is None:
        return
    try:
        write_object(cache / _MEASUREMENTS, dict(list(measured.items())[-_MAX_KEPT:]))
    except OSError as error:
        log.warning('%s cannot be written: %s', cache, error.strerror)
