"""The shipped alerts and dashboard agree with the metrics of a running node."""

import json
from typing import Any

import httpx
import promql_parser
import pytest
import yaml

from benchmarks.support.cards import make_card
from benchmarks.support.processes import PROJECT, NodeProcess
from detector.pose import images
from docs.reference_pages import collected_metrics, metrics_page
from tests.support.scrapes import Scrape

FOLDER = PROJECT / 'deploy' / 'monitoring'
DASHBOARD = json.loads((FOLDER / 'dashboard.json').read_text())
ALERTS = yaml.safe_load((FOLDER / 'alerts.yml').read_text())
RULES = [rule for group in ALERTS['groups'] for rule in group['rules']]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD['panels'] if panel['type'] != 'row']


def expressions() -> list[str]:
    of_panels = [target['expr'] for panel in panels() for target in panel['targets']]
    return [rule['expr'] for rule in RULES] + [text.replace('$__rate_interval', '5m') for text in of_panels]


def selectors(expression: str) -> list[Any]:
    """Return the vector selectors of a PromQL expression, which the library checks as Prometheus does."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(promql_parser.parse(expression), pre_visit=visit)
    return found


@pytest.fixture(scope='module')
def scrape(node: NodeProcess) -> Scrape:
    """Scrape a node that has seen a person."""
    assert node.detect(images.encode_jpeg(make_card())).status_code == 200
    return Scrape.of_node(node.url)


@pytest.mark.parametrize('expression', expressions())
def test_expressions_use_metrics_of_a_node(expression: str, scrape: Scrape) -> None:
    """Each expression parses, and each of its metrics and labels is in `/metrics`."""
    found = selectors(expression)
    assert found
    for selector in found:
        if selector.name == 'up':  # Prometheus makes this metric itself
            continue
        labels = {name for (sample, own), _ in scrape.samples.items() if sample == selector.name for name, _ in own}
        assert selector.name in scrape.names, selector.name
        for matcher in selector.matchers.matchers:
            assert matcher.name in labels | {'instance', 'job'}, f'{selector.name} has no label {matcher.name}'


def test_alert_rules_are_complete() -> None:
    """Each of the three rules has a duration, a severity, and a text that says what to check."""
    assert len(RULES) == 3
    assert len({rule['alert'] for rule in RULES}) == 3
    for rule in RULES:
        assert set(rule) == {'alert', 'expr', 'for', 'labels', 'annotations'}
        assert rule['for'].endswith('m')
        assert rule['labels']['severity'] in ('critical', 'warning')
        assert '{{ $labels.instance }}' in rule['annotations']['summary']
        assert rule['annotations']['description']


def test_the_dashboard_is_laid_out() -> None:
    """Panels do not overlap, have their own number, a title and a unit, and use the chosen Prometheus."""
    assert len({panel['id'] for panel in DASHBOARD['panels']}) == len(DASHBOARD['panels'])
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD['panels']:
        place = panel['gridPos']
        assert panel['title']
        assert place['x'] + place['w'] <= 24
        cells = {(place['x'] + x, place['y'] + y) for x in range(place['w']) for y in range(place['h'])}
        assert not cells & taken, panel['title']
        taken |= cells
    for panel in panels():
        assert panel['datasource'] == {'type': 'prometheus', 'uid': '${datasource}'}
        assert panel['fieldConfig']['defaults']['unit']
    assert [variable['name'] for variable in DASHBOARD['templating']['list']] == ['datasource', 'instance']


def test_the_example_configuration_finds_node_and_alerts(scrape: Scrape) -> None:
    """The example configuration names the shipped rule file, and the path and job that the alerts expect."""
    config = yaml.safe_load((FOLDER / 'prometheus.yml').read_text())
    assert [(FOLDER / name).is_file() for name in config['rule_files']] == [True]
    (job,) = config['scrape_configs']
    assert (job['job_name'], job['metrics_path']) == ('wholebody', '/metrics')
    assert job['static_configs'] == [{'targets': ['localhost:8004']}]


def test_every_metric_is_in_the_reference(scrape: Scrape) -> None:
    """The generated page has each metric that a running node reports, under the name that a query uses."""
    page = metrics_page(collected_metrics())
    kinds = scrape.types
    told = {name if kind != 'counter' else f'{name}_total' for name, kind in kinds.items()}
    assert 'wholebody_requests_total' in told
    for name in told:
        assert f'`{name}`' in page, name


def test_openmetrics_has_the_same_metrics(node: NodeProcess, scrape: Scrape) -> None:
    """A caller that accepts OpenMetrics gets the same metrics in it; with any other Accept header it gets text."""
    other = Scrape.of_node(node.url, open_metrics=True)
    assert other.names == scrape.names
    for accept in ('*/*', 'application/openmetrics-text;version=abc', 'text/plain;version=1;escaping=;;', 'ü', ',;,='):
        answer = httpx.get(f'{node.url}/metrics', headers={b'Accept': accept.encode()})
        assert answer.status_code == 200, accept
        assert 'wholebody_requests_total' in answer.text
