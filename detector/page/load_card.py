"""The card of the page that shows how fast the node is."""

from typing import Any, Final

from nicegui import ui

from detector.observability.recent import KEPT_SECONDS, STAGES, Second, total
from detector.serving.inference import Inference

from .elements import Figures, panel

_MEAN_SECONDS: Final = 10
_NAMES: Final = {'wait_ms': 'Waiting, ms', 'decode_ms': 'Decoding, ms', 'inference_ms': 'Inference, ms'}
_GREY: Final = '#8593a5'  # readable on light and dark backgrounds


class LoadCard:
    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self._drawn: list[tuple[int, float | None]] = []
        with panel('Load') as head:
            self._figures = Figures('Images/s', *_NAMES.values(), 'Requests now', 'Refused')
            self._chart = ui.echart(_empty_chart()).classes('chart')
        with head:
            ui.label(f'mean of {_MEAN_SECONDS} s').classes('faint')

    def refresh(self) -> None:
        seconds = self._inference.recent.seconds()
        mean = total(seconds[-_MEAN_SECONDS:])
        self._figures.show('Images/s', f'{mean.images / _MEAN_SECONDS:.1f}')
        for stage, name in _NAMES.items():
            self._figures.show(name, _short(mean.mean(stage)))
        requests = self._inference.admission.about()
        self._figures.show('Requests now', str(requests['present']))
        self._figures.show('Refused', str(requests['refused']))
        self._draw(seconds)

    def _draw(self, seconds: list[Second]) -> None:
        drawn = [(second.images, _latency(second)) for second in seconds]
        if drawn == self._drawn:  # an idle node sends nothing
            return
        self._drawn = drawn
        throughput, latency = self._chart.options['series']
        throughput['data'] = [images for images, _ in drawn]
        latency['data'] = [milliseconds for _, milliseconds in drawn]
        self._chart.update()


def _short(milliseconds: float | None) -> str:
    if milliseconds is None:
        return '–'
    return f'{milliseconds:.1f}' if milliseconds < 10 else f'{milliseconds:.0f}'


def _latency(second: Second) -> float | None:
    means = [second.mean(stage) for stage in STAGES]
    return None if None in means else round(sum(mean for mean in means if mean is not None), 1)


def _empty_chart() -> dict[str, Any]:
    """Return the options of a chart of the last minute: images per second as bars, milliseconds per image as a line."""
    axis = {
        'type': 'value',
        'min': 0,
        'splitNumber': 3,
        'axisLabel': {'color': _GREY},
        'nameTextStyle': {'color': _GREY},
    }
    return {
        'animation': False,
        'textStyle': {'fontFamily': 'system-ui, sans-serif'},
        'grid': {'left': 4, 'right': 4, 'top': 34, 'bottom': 2, 'containLabel': True},
        'legend': {'top': 0, 'left': 0, 'itemWidth': 14, 'itemHeight': 8, 'textStyle': {'color': _GREY}},
        'tooltip': {'trigger': 'axis', 'confine': True},
        'xAxis': {
            'type': 'category',
            'data': [f'{second - KEPT_SECONDS} s' for second in range(KEPT_SECONDS)],
            'axisLabel': {'color': _GREY, 'interval': 14, 'showMaxLabel': False},
            'axisLine': {'lineStyle': {'color': _GREY}},
            'axisTick': {'show': False},
        },
        'yAxis': [
            axis | {'splitLine': {'lineStyle': {'color': _GREY, 'opacity': 0.25}}, 'minInterval': 1},
            axis | {'splitLine': {'show': False}},
        ],
        'series': [
            {'name': 'images/s', 'type': 'bar', 'itemStyle': {'color': '#5b93db'}, 'barCategoryGap': '15%', 'data': []},
            {
                'name': 'ms per image (right)',
                'type': 'line',
                'yAxisIndex': 1,
                'symbolSize': 4,
                'showAllSymbol': True,
                'connectNulls': True,
                'itemStyle': {'color': '#d9822b'},
                'lineStyle': {'width': 2},
                'data': [],
            },
        ],
    }
