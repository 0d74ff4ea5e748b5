"""Measure what uncertain boxes below the person threshold cost per frame.

    uv run python -m benchmarks.uncertain_boxes PACKAGE [--rounds 20] [--runtime openvino]

The detector of the package must report as many persons in every picture as the engine estimates for relevance at most,
see `benchmarks.random_weights --persons`. All of them count as uncertain here, and none is answered, which is the worst
case. Frames of 640×480 pixels with and without these boxes alternate, so that a busy machine slows both. The figures
are medians.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import get_args

from detector.engine.pose_engine import MAX_UNCERTAIN, EngineOptions, PoseEngine
from detector.engine.runtimes import Backend
from detector.models.package import unpack_package

from .network_layers import random_pictures


def measure(engine: PoseEngine, rounds: int) -> dict[bool, float]:
    """Return the seconds per frame, without and with the uncertain boxes."""
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for picture in random_pictures(rounds, width=640, height=480, seed=0):
        for with_uncertain, taken in seconds.items():
            start = time.perf_counter()
            engine.find([picture], with_uncertain=with_uncertain)
            taken.append(time.perf_counter() - start)
    return {with_uncertain: median(taken) for with_uncertain, taken in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('package', type=Path)
    parser.add_argument('--rounds', type=int, default=20)
    parser.add_argument('--runtime', choices=get_args(Backend), default='openvino')
    arguments = parser.parse_args()
    options = EngineOptions(
        backend_type=arguments.runtime, precision='f32', person_threshold=1, max_uncertain_threshold=1
    )
    with tempfile.TemporaryDirectory() as folder:
        engine = PoseEngine(unpack_package(arguments.package, folder), options)
        engine.check()
        boxes, confidences = engine.detector.detect(
            random_pictures(1, width=640, height=480, seed=0)[0], with_uncertain=True
        )
        if len(boxes) != MAX_UNCERTAIN or engine.thresholds.answers(confidences).any():
            raise SystemExit(f'the detector reports {len(boxes)} uncertain persons; it must report {MAX_UNCERTAIN}')
        seconds = measure(engine, arguments.rounds)
    extra = 1000 * (seconds[True] - seconds[False])
    print(
        f'{engine.runtime}: {1000 * seconds[False]:.0f} ms per frame, {1000 * seconds[True]:.0f} ms with '
        f'{MAX_UNCERTAIN} uncertain boxes: {extra / MAX_UNCERTAIN:.0f} ms per box'
    )


if __name__ == '__main__':
    main()
