"""Start and end of the command `wholebody serve`."""

import sys
from pathlib import Path

from benchmarks.support.cards import make_card
from benchmarks.support.processes import PROJECT, clean_environment, running_node
from tests.support.sabotage import Sabotage


def test_faulty_settings_stop_the_start(tmp_path: Path) -> None:
    """Each faulty setting gets one line on standard error, without a traceback, and the exit status is 2."""
    import subprocess

    environment = clean_environment(BACKEND_TYPE='tensorflow', BACKEND_PORT='x', DATA_FOLDER=tmp_path)
    ended = subprocess.run(
        [sys.executable, '-m', 'detector', 'serve'],
        env=environment | {'PYTHONPATH': str(PROJECT)},
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert ended.returncode == 2
    lines = ended.stderr.splitlines()
    assert len(lines) == 2
    assert {line.split(':')[1].strip() for line in lines} == {'BACKEND_TYPE=tensorflow', 'BACKEND_PORT=x'}


def test_proxies_of_a_desktop_do_not_stop_the_start(tmp_path: Path) -> None:
    """Without a Learning Loop and Label Studio, the node starts whatever proxies the environment names."""
    proxies = {'ALL_PROXY': 'socks5://127.0.0.1:9', 'https_proxy': 'x://', 'NO_PROXY': '[::1],10.0.0.0/8,fd00::/8'}
    with running_node(tmp_path, **proxies) as node:
        assert 'Traceback' not in node.log.read_text()


def test_a_second_opencv_is_named_at_the_start(tmp_path: Path) -> None:
    """The start logs one warning about a second OpenCV, with the command that repairs the installation."""
    fake = tmp_path / 'packages' / 'opencv_python-4.1.dist-info'
    fake.mkdir(parents=True)
    (fake / 'METADATA').write_text('Name: opencv-python\nVersion: 4.1\n')
    with running_node(tmp_path, PYTHONPATH=fake.parent) as node:
        assert node.log.read_text().count('pip uninstall -y opencv-python opencv-python-headless') == 1


def test_sigterm_ends_the_node_with_status_0(tmp_path: Path) -> None:
    """SIGTERM ends the node within Docker's 10 seconds although a client waits for a large batch."""
    image = {'bytes': make_card().tobytes(), 'dtype': 'uint8', 'shape': (480, 720, 3)}
    sabotage = Sabotage(tmp_path / 'runtime')
    with running_node(tmp_path / 'node', **sabotage.settings) as node, node.socketio() as client:
        sabotage.hold()
        client.emit('batch_detect', {'images': [image] * 40})
        sabotage.wait_until_held()
        node.process.terminate()
        assert node.process.wait(10) == 0
