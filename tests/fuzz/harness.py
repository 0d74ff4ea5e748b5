"""Coverage-guided fuzzing with atheris of all code that reads untrusted bytes.

    python -m tests.fuzz.harness TARGET [--seconds 600] [--corpus FOLDER]
    python -m tests.fuzz.harness TARGET --replay FILE…

`tests/integration/test_fuzzing.py` makes an environment with atheris and runs all targets; see `CONTRIBUTING.md`. A
target fails if it raises an error or if a round takes over 5 seconds or over 2 GiB of memory. libFuzzer then writes the
input to `crash-…`, `timeout-…` or `oom-…` in the working directory.
"""

import argparse
import asyncio
import io
import json
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Final

SECONDS_A_ROUND: Final = 5
"""Time limit for a round, in seconds."""
MEMORY_MIB: Final = 2048
"""Memory limit of the process, in MiB."""
_PART: Final = b'\0part\0'
"""Separator in an input between a Socket.IO message and its binary parts."""

Target = Callable[[bytes], None]


def image_decode(data: bytes) -> None:
    from detector.errors import InvalidImage
    from detector.pose import images

    with suppress(InvalidImage):
        array = images.decode_image(data, max_pixels=1_000_000)
        assert array.shape[2] == 3
        images.as_jpeg(data, array)


def package_zip(data: bytes) -> None:
    from detector.errors import InvalidPackage
    from detector.models import package as model_package

    with tempfile.TemporaryDirectory(dir=_memory_disk()) as outer:
        archive, folder = Path(outer) / 'a.zip', Path(outer) / 'inside'
        archive.write_bytes(data)
        folder.mkdir()
        with suppress(InvalidPackage):
            model_package.unpack_package(archive, folder)
        assert {path.name for path in Path(outer).iterdir()} == {'a.zip', 'inside'}


def labeling_config(data: bytes) -> None:
    from detector.datasets.person import Person
    from detector.errors import InvalidRequest
    from detector.label_studio.labels import config
    from detector.label_studio.labels.regions import to_results

    with suppress(InvalidRequest):
        found = config.parse(data.decode(errors='surrogateescape'))
        to_results([Person.empty()], found, (64, 48))


def regions(data: bytes) -> None:
    """Read the regions of an annotation as JSON. The first byte of the input chooses the labeling config."""
    import numpy as np

    from detector.label_studio.labels import config
    from detector.label_studio.labels.regions import from_results

    try:
        results = json.loads(data[1:])
    except (ValueError, RecursionError):
        return
    style: config.Style = 'skeleton' if data[0] % 2 else 'keypoints'
    for person in from_results(results if isinstance(results, list) else [], config.parse(config.generate(style))):
        assert np.isfinite(person.keypoints).all()
        assert person.box is None or np.isfinite(person.box).all()


def metadata_json(data: bytes) -> None:
    from dataclasses import asdict

    from detector.errors import InvalidRequest
    from detector.loop import metadata

    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        return
    with suppress(InvalidRequest):
        json.dumps(asdict(metadata.parse(payload)), allow_nan=False)


def socketio_event(data: bytes) -> None:
    """Handle a packet like `2["event", …]` with its binary parts. The node must answer if it is an event."""
    answer = answer_to(data)
    if answer is not None:
        assert 'failed inside the node' not in str(answer.get('error')), answer
        json.dumps(answer, allow_nan=False)


def answer_to(data: bytes) -> dict[str, Any] | None:
    """Return the answer of a node with the embedded model; None if the input is not an event."""
    from socketio import packet

    node, loop = _node()
    text, *parts = data.split(_PART)

    async def arrive() -> dict[str, Any] | None:
        try:
            received = node.sio.packet_class(encoded_packet=text.decode(errors='replace'))
        except ValueError:  # not a message
            return None
        if received.packet_type not in (packet.EVENT, packet.BINARY_EVENT) or not text:
            return None
        count = received.attachment_count
        if count and (len(parts) < count or not [received.add_attachment(part) for part in parts[:count]][-1]):
            return None
        event, *payload = received.data
        answer = await node.sio._trigger_event(event, '/', 'a client', *payload)
        assert isinstance(answer, dict), answer
        return answer

    return loop.run_until_complete(arrive())


def outbox_file(data: bytes) -> None:
    """Load an outbox whose image has the input as its metadata file."""
    from detector.outbox.queue import OutboxQueue

    name = '2026-01-31_12:00:00.000000'
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        place = Path(folder) / 'outbox' / 'normal' / name
        place.mkdir(parents=True)
        (place / f'image_{name}.json').write_bytes(data)
        (place / f'image_{name}.jpg').write_bytes(b'jpeg')
        queue = OutboxQueue(Path(folder) / 'outbox', max_images=10, max_bytes=10**9)
        queue.load()
        assert queue.count + queue.counters.set_aside == 1
        for entry in queue.waiting():
            entry.describe()


def corrections_file(data: bytes) -> None:
    """Use a queue of corrections that has the input as its database file."""
    from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint

    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        path = Path(folder) / 'corrections.sqlite'
        path.write_bytes(data)
        queue = CorrectionQueue(path)
        try:
            queue.add([Hint(annotation=1, project=1)], now=0)
            assert queue.next()[0] is not None
            queue.about()
        finally:
            queue.close()


def download_file(data: bytes) -> None:
    """Resume a download. The input has the note of the earlier download, `Content-Range` and the body, one per line."""
    import httpx

    from detector.errors import DownloadFailed
    from detector.models import downloads

    note, _, rest = data.partition(b'\n')
    content_range, _, content = rest.partition(b'\n')
    calls = 0

    def answer(_: httpx.Request) -> httpx.Response:
        nonlocal calls
        calls += 1
        headers = [(b'Content-Range', content_range), (b'ETag', b'"a"')]
        return httpx.Response(206 if calls == 1 else 404, headers=headers, content=content)

    async def run(target: Path) -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            await downloads.download(client, 'http://loop/file', target, max_bytes=10_000)

    downloads._PAUSE_SECONDS = 0  # type: ignore[misc]
    with tempfile.TemporaryDirectory(dir=_memory_disk()) as folder:
        target = Path(folder) / 'a.zip'
        target.with_name('a.zip.json').write_bytes(note)
        target.with_name('a.zip.part').write_bytes(b'part')
        with suppress(DownloadFailed):
            asyncio.run(run(target))


TARGETS: Final[Mapping[str, Target]] = {
    target.__name__: target
    for target in (
        image_decode,
        package_zip,
        labeling_config,
        regions,
        metadata_json,
        socketio_event,
        outbox_file,
        corrections_file,
        download_file,
    )
}


# ---------------------------------------------------------------- seeds


def seeds(name: str) -> list[bytes]:
    """Return valid inputs of a target, with which the fuzzer starts."""
    from detector.label_studio.labels import config

    point = {'category_name': 'nose', 'x': 1.5, 'y': 2, 'model_name': '1', 'confidence': 0.5}
    box = {'category_name': 'person', 'x': 1, 'y': 2, 'width': 3, 'height': 4, 'model_name': '1', 'confidence': 0.5}
    metadata = {'box_detections': [box], 'point_detections': [point], 'tags': ['a'], 'creation_date': '2026-01-31'}
    match name:
        case 'image_decode':
            return _pictures()
        case 'package_zip':
            return [_zip({'model.json': b'{"id": "a"}', 'det.onnx': bytes(99)})]
        case 'labeling_config':
            return [config.generate('skeleton').encode(), config.generate('keypoints', ['body']).encode()]
        case 'regions':
            return [bytes([number]) + json.dumps(results).encode() for number, results in enumerate(_results())]
        case 'metadata_json' | 'outbox_file':
            return [json.dumps(metadata).encode()]
        case 'socketio_event':
            part = {'_placeholder': True, 'num': 0}
            image = {'format': 'jpeg', 'bytes': part}
            date = '2026-01-31T12:00:00'
            payloads = {
                'detect': {'image': image, 'tags': ['a'], 'camera_id': 'b', 'autoupload': 'all', 'creation_date': date},
                'batch_detect': {'images': [image, image], 'source': 'a'},
                'poses': {'image': {'dtype': 'uint8', 'shape': [24, 32, 3], 'bytes': part}},
                'upload': {'image': image, 'metadata': metadata, 'upload_priority': True},
                'set_outbox_mode': 'stopped',
                'set_model_version_mode': 'pause',
                'get_model_version': None,
                'get_outbox_mode': None,
                'about': None,
                'info': None,
            }
            jpeg, raw = _pictures()[2], bytes(24 * 32 * 3)
            found = []
            for event, payload in payloads.items():
                text = json.dumps([event, payload])
                binary = _PART + (raw if event == 'poses' else jpeg)
                found.append(f'51-{text}'.encode() + binary if '_placeholder' in text else f'2{text}'.encode())
            return found
        case 'corrections_file':
            return [_database()]
        case _:
            note = b'{"etag": "\\"a\\"", "last_modified": null, "length": 9}'
            return [note + b'\nbytes 4-8/9\n' + b'bytes', b'\n\n']


def _pictures() -> list[bytes]:
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    found = []
    exif = Image.Exif()
    exif[0x0112] = 6
    variants: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ('JPEG', 'RGB', {'exif': exif}),
        ('JPEG', 'CMYK', {}),
        ('JPEG', 'L', {'progressive': True}),
        ('PNG', 'P', {'transparency': 3}),
        ('PNG', 'RGBA', {}),
        ('WEBP', 'RGB', {}),
        ('WEBP', 'RGBA', {'lossless': True}),
    )
    for kind, mode, options in variants:
        buffer = io.BytesIO()
        Image.fromarray(noise).convert(mode).save(buffer, format=kind, **options)
        found.append(buffer.getvalue())
    return found


def _zip(files: dict[str, bytes]) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _results() -> list[Any]:
    from detector.datasets.person import Person
    from detector.label_studio.labels import config
    from detector.label_studio.labels.regions import to_results

    person = Person.empty()
    person.visibility[:3] = 2
    styles: list[config.Style] = ['keypoints', 'skeleton']
    return [to_results([person], config.parse(config.generate(style, ['body'])), (64, 48)) for style in styles]


def _database() -> bytes:
    from detector.label_studio.backend.correction_queue import CorrectionQueue, Hint

    with tempfile.TemporaryDirectory() as folder:
        queue = CorrectionQueue(Path(folder) / 'a.sqlite')
        queue.add([Hint(annotation=number, project=1) for number in range(5)], now=0)
        queue.close()
        return (Path(folder) / 'a.sqlite').read_bytes()


@cache
def _node() -> tuple[Any, asyncio.AbstractEventLoop]:
    """Make a node with the embedded model in this process. Its Loop does not answer, and it accepts every client."""
    from starlette.routing import Mount

    from detector.models import package as model_package
    from detector.models.embedded import EMBEDDED_PACKAGE
    from detector.node.wholebody_node import WholebodyNode
    from detector.settings import Settings

    logging.disable()
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    folder = Path(tempfile.mkdtemp(prefix='wholebody-fuzz-', dir=_memory_disk()))

    async def make() -> WholebodyNode:
        node = WholebodyNode(
            Settings(
                _env_file=None,
                data_folder=folder,
                max_outbox_size=10,
                max_image_pixels=1_000_000,
                loop_host='127.0.0.1:9',
                loop_organization='o',
                loop_project='p',
            )
        )
        handshake: Any = next(route for route in node.routes if isinstance(route, Mount) and route.path == '/ws').app
        handshake._guard.knows = lambda _: True
        (folder / 'embedded').mkdir()
        await node.parts.serving.switch(model_package.unpack_package(EMBEDDED_PACKAGE, folder / 'embedded').folder)
        return node

    return loop.run_until_complete(make()), loop


def _memory_disk() -> Path | None:
    """Return a folder in memory, which is faster than a disk; None if the machine has none."""
    return Path('/dev/shm') if os.access('/dev/shm', os.W_OK) else None


# ---------------------------------------------------------------- atheris


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('target', choices=sorted(TARGETS))
    parser.add_argument('--seconds', type=int, default=600)
    parser.add_argument('--corpus', type=Path, help='folder of inputs, which the fuzzer extends')
    parser.add_argument('--replay', type=Path, nargs='+', help='run these inputs once, without atheris')
    options = parser.parse_args()
    if options.replay:
        for path in options.replay:
            TARGETS[options.target](path.read_bytes())
        return
    _fuzz(options.target, options.seconds, options.corpus or Path(tempfile.mkdtemp()))


def _fuzz(name: str, seconds: int, corpus: Path) -> None:
    import atheris

    corpus.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    os.fsync = lambda fd: None  # files last for one round only
    with atheris.instrument_imports(include=['detector', 'PIL', 'zipfile', 'socketio', 'engineio']):
        for number, seed in enumerate(good := seeds(name)):
            (corpus / f'seed-{number}').write_bytes(seed)
            target(seed)  # imports the modules that the fuzzer must instrument
    limits = [f'-max_total_time={seconds}', f'-timeout={SECONDS_A_ROUND}', f'-rss_limit_mb={MEMORY_MIB}']
    size = max(map(len, good))
    atheris.Setup(
        [sys.argv[0], *limits, f'-max_len={max(4096, 2 * size)}', '-print_final_stats=1', str(corpus)], target
    )
    atheris.Fuzz()


if __name__ == '__main__':
    main()
