"""The published person detectors and pose estimators with random weights, for benchmarks where those cannot be fetched.

    uv run python -m benchmarks.random_weights FOLDER [--models yolox-tiny,rtmw-m] [--persons 4]
    uv run python -m benchmarks.random_weights FOLDER --packages lightweight,balanced --persons 4

They have the layers of the published networks and so their speed, but find nothing. With `--persons` a detector reports
so many persons in every picture, made up while all of it is computed; without, random boxes. Parameters and
multiply-adds are checked against the published figures; the command fails if one is missed by more than 3 %.

The weights depend on `--seed` only; on another kind of processor they may differ in their last digits.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import onnx

from .network_layers import Network
from .rtmw_network import build_estimator
from .yolox_network import Form, build_detector

TOLERANCE: Final = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A published network.

    :param build: makes it.
    :param parameters: in millions; those of detectors with 80 classes.
    :param multiply_adds: in thousand millions.
    """

    build: Callable[..., Network]
    parameters: float
    multiply_adds: float


_SMALL: Final[dict[str, Any]] = {'deepen': 0.33, 'widen': 0.375}
_MEDIUM: Final[dict[str, Any]] = {'deepen': 0.67, 'widen': 0.75}
_LARGE: Final[dict[str, Any]] = {'deepen': 1, 'widen': 1}

DETECTORS: Final = {
    'yolox-tiny': Published(build=partial(build_detector, size=416, **_SMALL), parameters=5.06, multiply_adds=3.23),
    'yolox-m': Published(build=partial(build_detector, size=640, **_MEDIUM), parameters=25.3, multiply_adds=36.9),
}
ESTIMATORS: Final = {
    'rtmw-m': Published(
        build=partial(build_estimator, width=192, height=256, **_MEDIUM), parameters=32.3, multiply_adds=4.31
    ),
    'rtmw-l': Published(
        build=partial(build_estimator, width=192, height=256, **_LARGE), parameters=57.2, multiply_adds=7.91
    ),
    'rtmw-l-384x288': Published(
        build=partial(build_estimator, width=288, height=384, **_LARGE), parameters=57.4, multiply_adds=17.69
    ),
}
MODES: Final = {
    'lightweight': ('yolox-tiny', 'rtmw-m'),
    'balanced': ('yolox-m', 'rtmw-l'),
    'performance': ('yolox-m', 'rtmw-l-384x288'),
}
"""As in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A network that was built, and how it compares to the published one.

    :param parameters: in millions.
    :param multiply_adds: in thousand millions.
    """

    path: Path
    published: Published
    parameters: float
    multiply_adds: float

    @property
    def deviations(self) -> tuple[float, float]:
        """Of parameters and of multiply-adds."""
        return (
            self.parameters / self.published.parameters - 1,
            self.multiply_adds / self.published.multiply_adds - 1,
        )


def write_detector(
    folder: Path, name: str, *, form: Form, persons: int | None = None, classes: int | None = None, seed: int = 0
) -> Built:
    """Write a detector; see `build_detector`.

    :param classes: by default those of the form's export: 1 of Human-Art with `nms`, 80 of COCO with `raw`.
    """
    classes = classes or (1 if form == 'nms' else 80)
    network = DETECTORS[name].build(form=form, persons=persons, classes=classes, seed=seed)
    suffix = '' if persons is None else f'-{persons}-persons'
    return _write(network, folder / f'{name}-{form}{suffix}.onnx', DETECTORS[name])


def write_estimator(folder: Path, name: str, *, seed: int = 0) -> Built:
    """Write a pose estimator; see `build_estimator`."""
    return _write(ESTIMATORS[name].build(seed=seed), folder / f'{name}.onnx', ESTIMATORS[name])


def _write(network: Network, path: Path, published: Published) -> Built:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial_path = path.with_suffix('.partial')
    onnx.save(network.model(), partial_path)
    partial_path.replace(path)
    return Built(
        path=path,
        published=published,
        parameters=network.parameters / 1e6,
        multiply_adds=network.multiply_adds / 1e9,
    )


def pack(folder: Path, mode: str, persons: int | None, form: Form = 'nms', *, seed: int = 0) -> Path:
    """Build the two networks of a mode into a folder and pack them.

    :param mode: one of `MODES`.
    :param persons: how many the detector reports in every picture; see `build_detector`.
    :return: the package, verified.
    """
    from detector.engine.verification import verify
    from detector.models.packing import pack_onnx

    detector, estimator = MODES[mode]
    detector_path = write_detector(folder, detector, form=form, persons=persons, seed=seed).path
    archive = folder / f'{mode}-{detector_path.stem}.zip'
    pack_onnx(
        archive,
        detector=detector_path,
        estimator=write_estimator(folder, estimator, seed=seed).path,
        name=f'random-{mode}',
        version='1.0',
        verify=verify,
        origin='random weights: finds nothing, takes as long as the published networks',
    )
    return archive


def report(built: list[Built]) -> bool:
    """Print figures beside the published ones.

    :return: whether all are close enough.
    """
    print(f'{"":34} {"million parameters":^28} {"thousand million multiply-adds":^31}')
    close = True
    for network in built:
        parameters, multiply_adds = network.deviations
        good = max(abs(parameters), abs(multiply_adds)) <= TOLERANCE
        close &= good
        print(
            f'{network.path.name:34} '
            f'{network.parameters:8.3f} for {network.published.parameters:6.2f} {parameters:+7.2%}  '
            f'{network.multiply_adds:8.3f} for {network.published.multiply_adds:6.2f} {multiply_adds:+7.2%}  '
            f'{"" if good else "MISSED"}'.rstrip()
        )
    return close


def _names(text: str, known: list[str]) -> list[str]:
    names = text.split(',')
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f'{name!r} is none of {", ".join(known)}')
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    models, forms, modes = [*DETECTORS, *ESTIMATORS], list(get_args(Form)), list(MODES)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--models', type=partial(_names, known=models), help=f'{",".join(models)}; by default all')
    parser.add_argument('--forms', type=partial(_names, known=forms), default=forms, help='of the detectors: nms,raw')
    parser.add_argument('--classes', type=int, help='of the detectors; by default 1 with nms, 80 with raw')
    parser.add_argument('--persons', type=int, help='that the detectors report, wherever they look')
    parser.add_argument('--packages', type=partial(_names, known=modes), default=[], help=','.join(modes))
    parser.add_argument('--seed', type=int, default=0)
    options = parser.parse_args()
    try:
        close = _run(options)
    except ValueError as error:
        parser.error(str(error))
    sys.exit(not close)


def _run(options: argparse.Namespace) -> bool:
    built = []
    for name in options.models or ([] if options.packages else [*DETECTORS, *ESTIMATORS]):
        if name in ESTIMATORS:
            built.append(write_estimator(options.folder, name, seed=options.seed))
            continue
        for form in options.forms:
            built.append(
                write_detector(
                    options.folder, name, form=form, persons=options.persons, classes=options.classes, seed=options.seed
                )
            )
    close = report(built) if built else True
    for mode in options.packages:
        for form in options.forms:
            print(pack(options.folder, mode, options.persons, form, seed=options.seed))
    return close


if __name__ == '__main__':
    main()
