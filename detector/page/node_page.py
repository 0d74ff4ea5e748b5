"""The node's page."""

from typing import Final

from fastapi import Request
from nicegui import ui

from .context import PageContext
from .elements import ICON, SkeletonView, Text, bar, panel, use_style
from .load_card import LoadCard
from .model_card import ModelCard
from .outbox_card import OutboxCard

_REFRESH_SECONDS: Final = 1.0


def build(context: PageContext) -> None:
    """Register the page."""
    settings, service = context.settings, context.service
    use_style()

    @ui.page('/', title=f'{settings.node_name} · poses', favicon=ICON)
    def node_page(request: Request) -> None:
        client, told = ui.context.client, False
        with bar(settings.node_name):
            state = Text('span', classes='pill')
            if context.access_policy.has_token:
                with ui.element('form').props('method=post action=/logout').classes('log-out'):
                    Text('button', 'Log out')
        with ui.element('main').classes('cards'):
            with panel('Try an image'):
                SkeletonView(threshold=settings.confidence_threshold, card='test-card')
            with ui.element('div').classes('side'):
                model = ModelCard(
                    settings,
                    service,
                    context.serving,
                    context.following,
                    context.updates,
                    is_allowed=lambda: context.access_policy.allows(request),
                )
                load = LoadCard(context.inference)
            outbox = OutboxCard(settings, service.outbox, context.outbox)

        async def refresh() -> None:
            nonlocal told
            if not context.access_policy.allows(request):  # the user has logged out, in this window or another
                if told:  # the browser has not reloaded the page
                    client.delete()
                else:
                    ui.navigate.reload()
                told = True
                return
            package = context.serving.current()
            state.set_text('no model is loaded' if package is None else f'{package.model_version} serves')
            state.classes(add='error') if package is None else state.classes(remove='error')
            await model.refresh()
            load.refresh()
            await outbox.refresh()

        ui.timer(_REFRESH_SECONDS, refresh)  # runs as long as the page is open
