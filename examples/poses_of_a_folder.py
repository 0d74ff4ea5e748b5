"""Find the poses in all images of a folder with the Python API; write a JSON file and a picture for each image.

    uv run python examples/poses_of_a_folder.py model_files poses

No node is needed. The model is the installed one, or the starter model.
"""

import argparse
import json
from pathlib import Path

from detector import (
    InvalidImage,
    PoseEngine,
    draw_poses,
    installed_package,
    open_package,
    poses_to_json,
    read_image,
    write_image,
)


def main(images: Path, output: Path) -> None:
    engine = PoseEngine(open_package(installed_package()))
    output.mkdir(parents=True, exist_ok=True)
    for path in sorted(images.iterdir()):
        if path.suffix.lower() not in ('.jpg', '.jpeg', '.png', '.webp'):
            continue
        try:
            image = read_image(path)
        except InvalidImage as error:
            print(f'{path.name}: {error}')
            continue
        poses = engine.poses(image)
        height, width = image.shape[:2]
        answer = poses_to_json(poses, width=width, height=height, model_version=engine.package.model_version)
        (output / f'{path.stem}.json').write_text(json.dumps(answer))
        write_image(output / path.name, draw_poses(image, poses))
        print(f'{path.name}: {len(poses)} persons')


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('images', type=Path)
    parser.add_argument('output', type=Path)
    main(**vars(parser.parse_args()))
