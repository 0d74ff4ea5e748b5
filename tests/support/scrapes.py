"""Answers of `GET /metrics`, parsed by Prometheus' parser."""

from dataclasses import dataclass

import httpx
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families as text_families

OPEN_METRICS = {'Accept': 'application/openmetrics-text; version=1.0.0'}


@dataclass
class Scrape:
    """Samples of an answer by name and labels."""

    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]
    types: dict[str, str]

    @classmethod
    def of_text(cls, text: str, *, open_metrics: bool = False) -> 'Scrape':
        families = list(open_families(text) if open_metrics else text_families(text))
        samples = {}
        for family in families:
            for sample in family.samples:
                key = sample.name, frozenset(sample.labels.items())
                assert key not in samples, f'{key} occurs twice'
                samples[key] = float(sample.value)
        return cls(samples=samples, types={family.name: family.type for family in families})

    @classmethod
    def of_node(cls, url: str, *, open_metrics: bool = False) -> 'Scrape':
        answer = httpx.get(f'{url}/metrics', headers=OPEN_METRICS if open_metrics else None, timeout=30)
        assert answer.status_code == 200
        kind = 'application/openmetrics-text' if open_metrics else 'text/plain'
        assert answer.headers['Content-Type'].startswith(kind)
        return cls.of_text(answer.text, open_metrics=open_metrics)

    @classmethod
    def of_registry(cls, registry: CollectorRegistry) -> 'Scrape':
        return cls.of_text(generate_latest(registry).decode())

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.samples}

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a name whose labels include these."""
        return sum(
            value for (found, own), value in self.samples.items() if found == name and own >= set(labels.items())
        )

    def by(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Return the samples of a name that are not zero, by the values of these labels."""
        found: dict[tuple[str, ...], float] = {}
        for (sample, own), value in self.samples.items():
            if sample == name and value:
                key = tuple(dict(own)[label] for label in labels)
                found[key] = found.get(key, 0) + value
        return found
