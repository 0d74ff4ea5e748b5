"""Train the starter's person detector on a folder of photographs with a teacher, and measure it.

uv run --group training python -m training run PHOTOGRAPHS TEACHER.onnx FOLDER
"""

import argparse
import logging
import sys
from dataclasses import fields
from pathlib import Path

from .photographs import Collection


def main(arguments: list[str] | None = None) -> int:
    """Run the command that the arguments name.

    :return: exit status; 2 if the input cannot be used.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format='%(asctime)s %(message)s', stream=sys.stdout)
    try:
        options.command(options)
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    described = argparse.RawDescriptionHelpFormatter
    top = argparse.ArgumentParser(prog='python -m training', description=__doc__, formatter_class=described)
    commands = top.add_subparsers(required=True, metavar='COMMAND')
    run = commands.add_parser('run', help='train, or go on from the checkpoint in FOLDER, and export the network')
    add_input(run)
    # The defaults are those of `Recipe`, which is not read here: it needs torch.
    run.add_argument('--minutes', type=float, help='duration of the run (default: 90)')
    run.add_argument('--batch', type=int, help='pictures in a step of each process, for the whole network (default: 4)')
    run.add_argument('--processes', type=int, help='processes that train the whole network (default: 2)')
    run.add_argument('--matrix-rate', type=float, help='highest relative step of convolutions (default: 0.016)')
    run.add_argument('--rate', type=float, help='highest learning rate of other parameters (default: 0.004)')
    run.add_argument('--blocks', type=float, help='share of the run in which blocks learn by themselves (default: 0.7)')
    run.add_argument('--report', type=float, help='minutes between two checkpoints (default: 5)')
    run.set_defaults(command=train_and_export)
    export = commands.add_parser('export', help='calibrate and export the checkpoint in FOLDER')
    add_input(export)
    export.set_defaults(command=export_only)
    measure = commands.add_parser('measure', help='measure detectors on the photographs that are held out of training')
    measure.add_argument('photographs', type=Path, help='folder of photographs, as for `run`')
    measure.add_argument('detectors', type=Path, nargs='+', help='ONNX files of the YOLOX raw form')
    measure.add_argument('--truth', type=Path, help='COCO annotations of further photographs, which lie beside them')
    measure.set_defaults(command=measure_and_print)
    return top


def add_input(command: argparse.ArgumentParser) -> None:
    command.add_argument('photographs', type=Path, help='folder with a subfolder for each source of sources.toml')
    command.add_argument('teacher', type=Path, help='ONNX file of a YOLOX-nano in raw form, class 0 is person')
    command.add_argument('folder', type=Path, help='folder of the log, the checkpoint and person_detector.onnx')


def train_and_export(options: argparse.Namespace) -> None:
    from .run import Recipe, train

    given = {one.name: value for one in fields(Recipe) if (value := getattr(options, one.name, None)) is not None}
    collection = Collection.of(options.photographs)
    options.folder.mkdir(parents=True, exist_ok=True)
    train(collection, options.teacher, options.folder, Recipe(**given))
    export_only(options)


def export_only(options: argparse.Namespace) -> None:
    from .calibration import calibrated
    from .export import export
    from .run import averaged, detector_of

    network = averaged(options.folder)
    calibration = calibrated(detector_of(network), options.teacher, Collection.of(options.photographs))
    export(network, options.folder / 'person_detector.onnx', calibration)


def measure_and_print(options: argparse.Namespace) -> None:
    from .measuring import tables

    for line in tables(options.detectors, options.photographs, options.truth):
        print(line)


if __name__ == '__main__':
    sys.exit(main())
