"""Send camera frames to a node over Socket.IO, as a robot does, and print each person's box and nose.

uv run wholebody serve                    # in another terminal
uv run python examples/robot_client.py    # or with --image photo.jpg --url http://robot:8004
"""

import argparse

import numpy as np
import socketio
from PIL import Image

KEYPOINTS = 133
FRAMES = 3


def main(image: str, url: str) -> None:
    frame = np.asarray(Image.open(image).convert('RGB'))  # stands in for the camera: RGB, uint8, height × width × 3
    payload = {
        'image': {'bytes': frame.tobytes(), 'dtype': 'uint8', 'shape': frame.shape},
        'camera_id': 'front',  # a newer frame of a camera replaces one that still waits
        'autoupload': 'disabled',  # the default, `filtered`, lets the node send relevant frames to the Learning Loop
    }
    client = socketio.Client()
    client.connect(url, socketio_path='/ws/socket.io', transports=['websocket'])
    try:
        for number in range(FRAMES):
            answer = client.call('detect', payload, timeout=5)
            if 'error' in answer:
                print(f'frame {number}: {answer["error"]}')
                continue
            boxes, points = answer['box_detections'], answer['point_detections']
            print(f'frame {number}: {len(boxes)} persons')
            for person, box in enumerate(boxes):
                keypoints = points[KEYPOINTS * person : KEYPOINTS * (person + 1)]
                nose = keypoints[0]
                print(f'  box at {box["x"]}, {box["y"]}; nose at {nose["x"]:.0f}, {nose["y"]:.0f}')
    finally:
        client.disconnect()


if __name__ == '__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--image', default='model_files/test-card.jpg')
    parser.add_argument('--url', default='http://localhost:8004')
    main(**vars(parser.parse_args()))
