"""Counters and histograms with labels, as plain numbers that take their Prometheus form when asked.

prometheus-client's own take a lock and look their labels up for every value, which costs a busy
gateway five times as much; here it only writes what was counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from coe.telemetry import Histogram

Labels = tuple[str, ...]
"""Values, in the order of the names."""


class Counted:
    """A counter for each set of labels."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._values: dict[Labels, float] = {} if labels else {(): 0.0}

    def add(self, *labels: str, by: float = 1.0) -> None:
        self._values[labels] = self._values.get(labels, 0.0) + by

    def family(self) -> Metric:
        return counters(self._name, self._text, self._labels, self._values.items())


class Level:
    """A number for each set of labels that rises and falls."""

    def __init__(self, name: str, text: str, labels: Sequence[str] = ()) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._values: dict[Labels, float] = {}

    def add(self, *labels: str, by: float) -> None:
        self._values[labels] = self._values.get(labels, 0.0) + by

    def family(self) -> Metric:
        return gauges(self._name, self._text, self._labels, self._values.items())


class Histograms:
    """A histogram for each set of labels."""

    def __init__(
        self, name: str, text: str, bounds: Sequence[float], labels: Sequence[str] = ()
    ) -> None:
        self._name, self._text, self._labels = name, text, tuple(labels)
        self._bounds = tuple(bounds)
        self._values: dict[Labels, Histogram] = {} if labels else {(): Histogram(bounds)}

    def observe(self, value: float, *labels: str) -> None:
        histogram = self._values.get(labels)
        if histogram is None:
            histogram = self._values[labels] = Histogram(self._bounds)
        histogram.observe(value)

    def family(self) -> Metric:
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for labels, histogram in self._values.items():
            buckets = [(_told(bound), n) for bound, n in histogram.at_most()]
            family.add_metric(labels, buckets, histogram.total)
        return family


def _told(bound: float) -> str:
    return "+Inf" if bound == math.inf else repr(bound)


Values = Iterable[tuple[Labels, float]]


def counters(name: str, text: str, labels: Sequence[str], values: Values) -> Metric:
    """`name` without the `_total` that it is told with."""
    family = CounterMetricFamily(name, text, labels=labels)
    for told, value in values:
        family.add_metric(told, value)
    return family


def gauges(name: str, text: str, labels: Sequence[str], values: Values) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for told, value in values:
        family.add_metric(told, value)
    return family
