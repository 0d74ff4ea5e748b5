"""Label a folder of images with the model and write the labels as a YOLO-pose dataset and a COCO-WholeBody file.

    uv run python examples/export_dataset.py model_files dataset

The datasets hold what the model sees, which is a start for labelling. For labels that people have corrected in
Label Studio, use `wholebody labelstudio export`.
"""

import argparse
import json
from pathlib import Path

from detector import PoseEngine, installed_package, open_package, read_image
from detector.datasets.coco import to_coco
from detector.datasets.labelled_image import LabelledImage
from detector.datasets.person import Person
from detector.datasets.yolo import write_yolo

CONFIDENCE = 0.3
"""Keypoints with a lower confidence count as not labelled."""


def main(images: Path, output: Path) -> None:
    engine = PoseEngine(open_package(installed_package()))
    paths = sorted(path for path in images.iterdir() if path.suffix.lower() in ('.jpg', '.jpeg', '.png', '.webp'))
    labelled = [labels_of(path, number, engine) for number, path in enumerate(paths, start=1)]
    write_yolo(output / 'yolo', labelled, val_share=0.1, image_bytes=lambda image: paths[image.id - 1].read_bytes())
    (output / 'coco.json').write_text(json.dumps(to_coco(labelled)))
    print(f'{len(labelled)} images with {sum(len(image.persons) for image in labelled)} persons in {output}')


def labels_of(path: Path, number: int, engine: PoseEngine) -> LabelledImage:
    image = read_image(path)
    height, width = image.shape[:2]
    persons = [Person.of(pose, threshold=CONFIDENCE) for pose in engine.poses(image)]
    return LabelledImage(id=number, file_name=path.name, width=width, height=height, persons=persons)


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('images', type=Path)
    parser.add_argument('output', type=Path)
    main(**vars(parser.parse_args()))
