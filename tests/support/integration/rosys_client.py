"""Drive rosys' edge client, `rosys.vision.DetectorHardware`, against a node. It runs in its own environment.

    python rosys_client.py PORT FRAME.npy RAW|JPEG RESULT.json

The script sends the frame (RGB uint8, H×W×3) by `detect` and `batch_detect` with a robot's time-out of 5 seconds,
uploads it with the detections, and requests `about` and the model version. It writes the contents of rosys' objects as
JSON.
"""

import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

CONNECT_SECONDS = 25  # rosys tries to connect at the start and then every 10 seconds


def main() -> None:
    port, frame, transmission, result = sys.argv[1:]
    with tempfile.TemporaryDirectory(prefix='rosys-') as home:
        # rosys writes to these folders when it is imported
        os.environ |= {'HOME': home, 'MPLCONFIGDIR': home, 'NICEGUI_STORAGE_PATH': home, 'MATPLOTLIB': 'false'}
        answers = asyncio.run(drive(int(port), np.load(frame), transmission))
    Path(result).write_text(json.dumps(answers))


async def drive(port: int, frame: np.ndarray[Any, Any], transmission: str) -> dict[str, Any]:
    """Connect and make all calls once."""
    import nicegui.core
    import rosys
    from rosys.vision import Autoupload, DetectorHardware, Image, ImageTransmissionFormat

    nicegui.core.loop = asyncio.get_running_loop()  # replaces ui.run, as in rosys' own integration tests
    detector = DetectorHardware(
        host='127.0.0.1',
        port=port,
        name='test',
        image_transmission_format=ImageTransmissionFormat[transmission],
    )
    await rosys.startup()  # without rosys.shutdown, which kills the process
    deadline = time.monotonic() + CONNECT_SECONDS
    while not detector.is_connected:
        if time.monotonic() > deadline:
            raise SystemExit(f'rosys does not connect to port {port}')
        await asyncio.sleep(0.05)
    first, *others = (Image.from_array(frame, camera_id='camera') for _ in range(3))
    detected = await detector.detect(first, autoupload=Autoupload.DISABLED)
    batch = await detector.batch_detect(others, autoupload=Autoupload.DISABLED)
    await detector.upload(first, tags=['robot'], source='rosys', creation_date='2026-01-31T12:00:00')
    about = await detector.fetch_detector_info()
    versions = await detector.fetch_model_version_info()
    await detector.disconnect()
    return {
        'detect': as_metadata(detected),
        'batch_detect': [as_metadata(item) for item in batch],
        'about': asdict(about),
        'model_version': asdict(versions),
    }


def as_metadata(detections: Any) -> dict[str, Any]:
    """Convert rosys' detections to the form of the node's answer."""
    return {
        'box_detections': [asdict(box) for box in detections.boxes],
        'point_detections': [asdict(point) for point in detections.points],
    }


if __name__ == '__main__':
    main()
