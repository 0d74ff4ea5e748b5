"""Build the published person detectors and pose estimators with random weights, for benchmarks without downloads.

    uv run python -m benchmarks.random_weights FOLDER [--models yolox-tiny,rtmw-m] [--persons 4]
    uv run python -m benchmarks.random_weights FOLDER --packages lightweight,balanced --persons 4

The networks have the layers of the published ones, and so their speed, but their results mean nothing. With
`--persons`, a detector reports that number of persons in every picture while it computes all its layers; otherwise it
reports random boxes. The command checks parameters and multiply-adds against the published figures, and its exit status
is 1 if one differs by more than 3 %.

The weights depend on `--seed` only. On another kind of processor, their last digits may differ.
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

    :param build: function that builds it.
    :param parameters: in millions; for detectors, with 80 classes.
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
"""Detector and estimator of each mode, as in the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """A built network and the published one.

    :param parameters: in millions.
    :param multiply_adds: in thousand millions.
    """

    path: Path
    published: Published
    parameters: float
    multiply_adds: float

    @property
    def deviations(self) -> tuple[float, float]:
        """Relative deviations of parameters and multiply-adds from the published figures."""
        return (
            self.parameters / self.published.parameters - 1,
            self.multiply_adds / self.published.multiply_adds - 1,
        )


def write_detector(
    folder: Path, name: str, *, form: Form, persons: int | None = None, classes: int | None = None, seed: int = 0
) -> Built:
    """Write a detector; see `build_detector`.

    :param classes: number of classes; by default 1 for `nms`, as Human-Art has, and 80 for `raw`, as COCO has.
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
    """Build the two networks of a mode, pack them, and return the verified package.

    :param mode: one of `MODES`.
    :param persons: number of persons that the detector reports in every picture; see `build_detector`.
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
    """Print the figures beside the published ones.

    :return: True if all are close enough.
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
            raise argparse.ArgumentTypeError(f'{name!r} is not one of {", ".join(known)}')
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    models, forms, modes = [*DETECTORS, *ESTIMATORS], list(get_args(Form)), list(MODES)
    parser.add_argument('folder', type=Path)
    parser.add_argument(
        '--models', type=partial(_names, known=models), help=f'networks to build, of {",".join(models)}; by default all'
    )
    parser.add_argument(
        '--forms', type=partial(_names, known=forms), default=forms, help='output forms of the detectors: nms,raw'
    )
    parser.add_argument('--classes', type=int, help='classes of the detectors; by default 1 for nms, 80 for raw')
    parser.add_argument('--persons', type=int, help='number of persons that the detectors report in every picture')
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
