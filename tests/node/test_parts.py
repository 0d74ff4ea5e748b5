"""The parts of a node, before anything is started."""

from pathlib import Path

import httpx
import pytest
from learning_loop_node.enums import OperationMode

from benchmarks.support.packages import make_package
from detector.errors import ModelUnavailable, NoLearningLoop
from detector.node.parts import Parts
from detector.serving.first_model import Awaited
from detector.serving.model_serving import ServingModel
from detector.settings import Settings


async def test_a_change_of_the_model_reaches_every_part_that_needs_it(tmp_path: Path) -> None:
    """Each change of the model calls the observer, and `/about` describes the model while it is active."""
    changes: list[str | None] = []

    def note(model: ServingModel | None) -> None:
        changes.append(None if model is None else model.package.version)

    parts = Parts(
        Settings(data_folder=tmp_path),
        on_model=note,
        on_state=lambda _: None,
        send_status=lambda: pytest.fail('there is no Loop'),
        is_muted=lambda: False,
    )
    assert parts.following.operation_mode == OperationMode.Startup
    with pytest.raises(ModelUnavailable, match='no model is loaded: the model is being loaded'):
        parts.serving.active()
    package = parts.store.add(make_package(tmp_path / 'p.zip', version='1.2'))
    await parts.serving.switch(package.folder)
    assert parts.service.about.about()['wholebody']['model_version'] == package.model_version
    parts.serving.reset()
    assert changes == ['1.2', None]
    assert parts.service.about.about()['wholebody']['model_version'] is None


@pytest.mark.usefixtures('starter')
async def test_one_notice_says_why_an_embedded_model_serves(tmp_path: Path) -> None:
    """The notice names the fault, the awaited model and the Loop's silence; else how to get a better model."""
    loop = {'loop_host': '127.0.0.1:9', 'loop_organization': 'o', 'loop_project': 'p'}
    for number, (settings, expected) in enumerate((({}, 'wholebody model pull'), (loop, 'it has not answered yet'))):
        parts = Parts(
            Settings(data_folder=tmp_path / str(number), **settings),  # type: ignore[arg-type]
            on_model=lambda _: None,
            on_state=lambda _: None,
            send_status=lambda: pytest.fail('nothing is reported'),
            is_muted=lambda: True,
        )
        models, first = parts.service.models, parts.first
        assert models.notice() == 'no model is loaded: the model is being loaded'
        await parts.serving.switch(parts.store.embedded('starter'))
        assert models.versions().current_version == 'starter'
        notice = str(models.notice())
        assert notice.startswith('The starter model serves. ')
        assert expected in notice
        first._awaited = Awaited(name='balanced')
        assert 'The balanced model (MODE) is being downloaded' in str(models.notice())
        assert parts.service.about.about()['wholebody']['awaited']['model'] == 'balanced'
        installed = parts.store.add(make_package(tmp_path / 'p.zip', version='1.2'))
        if not parts.following.has_loop:
            parts.store.select(installed.version)  # as a command does, whose model this node does not serve yet
            assert 'A model is installed, which serves from the next start on' in str(models.notice())
        await parts.serving.switch(installed)
        assert models.notice() is None


async def test_without_a_loop_no_part_can_reach_one(tmp_path: Path) -> None:
    """The client of the Loop refuses every request before it opens a connection."""
    parts = Parts(
        Settings(data_folder=tmp_path),
        on_model=lambda _: None,
        on_state=lambda _: None,
        send_status=lambda: pytest.fail('there is no Loop'),
        is_muted=lambda: False,
    )
    with pytest.raises(NoLearningLoop):
        await parts.communicator.async_client.send(httpx.Request('GET', 'http://loop.invalid'))
    await parts.following.cycle()
