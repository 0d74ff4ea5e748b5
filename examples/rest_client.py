"""Post an image to a node and print where each person's wrists are.

uv run wholebody serve                   # in another terminal
uv run python examples/rest_client.py    # or with --image photo.jpg --url http://robot:8004
"""

import argparse
import sys
from pathlib import Path

import httpx


def main(image: Path, url: str) -> None:
    response = httpx.post(f'{url}/poses', files={'file': image.read_bytes()}, timeout=30)
    if response.is_error:
        sys.exit(f'{response.status_code}: {response.json()["detail"]}')
    answer = response.json()
    print(f'{len(answer["poses"])} persons by {answer["model_version"]} in {answer["timing"]["inference_ms"]:.0f} ms')
    for pose in answer['poses']:
        keypoints = {point['name']: point for point in pose['keypoints']}
        for name in ('left_wrist', 'right_wrist'):
            point = keypoints[name]
            print(f'  {name} at {point["x"]:.0f}, {point["y"]:.0f}, confidence {point["confidence"]:.2f}')


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--image', type=Path, default=Path('model_files/test-card.jpg'))
    parser.add_argument('--url', default='http://localhost:8004')
    main(**vars(parser.parse_args()))
