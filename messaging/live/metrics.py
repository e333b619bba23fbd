"""The counters of this process, in Prometheus's format. They name no room and no person and contain no text.

They are plain numbers, because a counter of prometheus-client takes a microsecond and its histogram five; frequent events are added
once for a whole batch. They become metrics only on request. Every process of a site has its own, with the label `process`. The figures
of the jobs are about the whole site: they are counted in the store, and the page adds them as `Site`.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

BATCH_SIZES = (1, 2, 5, 10, 20, 50, 100, 200, 400)


def _total(text: str) -> int:
    number: int = dataclasses.field(default=0, metadata={"help": text})
    return number


def _gauge(text: str) -> Any:
    return dataclasses.field(metadata={"help": text})


@dataclasses.dataclass(slots=True)
class Done:
    """Totals that never fall, in the order of the page."""

    frames: int = _total("Frames received from clients")
    accepted: int = _total("Messages accepted: stored, and given a seq")
    repeated: int = _total("Messages sent again that got the first answer")
    acknowledgements: int = _total("Acknowledgements that moved a cursor")
    retried: int = _total("Attempts: pushes to a connected recipient who did not acknowledge")
    gave_up: int = _total("Last attempts: the room is left alone until an acknowledgement (no_ack)")
    rejected: int = _total("Messages that a recipient's client could not show (client_rejected)")
    subscriptions_lost: int = _total("Times that this process lost its subscription to the store")
    handler_failures: int = _total("Connections that a fault of the server closed (1011)")


done = Done()
refused: collections.Counter[str] = collections.Counter()  # by error code
_connections = 0
_batches = [0] * (len(BATCH_SIZES) + 1)  # by size: above the size before, at most this one
_in_batches = 0


def connected(change: int) -> None:
    """Count a connection that opened (1) or ended (-1)."""
    global _connections
    _connections += change


def committed(size: int) -> None:
    """Count the messages that were sent to the store in one round trip."""
    global _in_batches
    _batches[bisect.bisect_left(BATCH_SIZES, size)] += 1
    _in_batches += size


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """The state of expiry for the whole site, the same in every process. `missed` is {reason: members}."""

    expired_due: int = _gauge("Messages that have expired and are not yet reported")
    expired_due_seconds: float = _gauge("Age of the oldest of them: how late the job runs")
    expired_last_hour: int = _gauge("Messages processed after they had expired, in the last hour")
    expired_to_all_last_hour: int = _gauge("Those of them that everybody had")
    expired_missed_last_hour: int = _gauge("Those of them that somebody missed")
    store_losses_last_week: int = _gauge("Times that the store lost accepted messages, in the last 7 days")
    store_lost_messages_last_week: int = _gauge("An estimate of these messages")
    missed: Mapping[str, int]


def page(site: Site | None = None) -> bytes:
    """Return all metrics in Prometheus's text format; `site` is None while the store does not answer."""
    own = generate_latest(_registry)
    if site is None:
        return own
    registry = CollectorRegistry()
    registry.register(_Whole(site))
    return own + generate_latest(registry)


class _Whole(Collector):
    def __init__(self, site: Site) -> None:
        self._site = site

    def collect(self) -> Iterator[Metric]:
        for field in dataclasses.fields(Site):
            if "help" in field.metadata:
                value = getattr(self._site, field.name)
                yield GaugeMetricFamily(f"chat_{field.name}", field.metadata["help"], value=value)
        missed = GaugeMetricFamily(
            "chat_missed_last_hour", "Members who missed a message, in the last hour", labels=["reason"]
        )
        for reason, number in sorted(self._site.missed.items()):
            missed.add_metric([reason], number)
        yield missed


class _Own(Collector):
    def collect(self) -> Iterator[Metric]:
        for field in dataclasses.fields(Done):
            yield CounterMetricFamily(
                f"chat_{field.name}", field.metadata["help"], value=getattr(done, field.name)
            )
        by_code = CounterMetricFamily("chat_refused", "Frames answered with an error", labels=["code"])
        for code, number in sorted(refused.items()):
            by_code.add_metric([code], number)
        yield by_code
        yield GaugeMetricFamily("chat_connections", "Open connections", value=_connections)
        yield HistogramMetricFamily(
            "chat_commit_batch", "Messages given to the store in one round trip", _buckets(), _in_batches
        )


def _buckets() -> list[tuple[str, float]]:
    """Return [(largest size, number of batches)], cumulative as the format requires."""
    names = [*(f"{size}.0" for size in BATCH_SIZES), "+Inf"]
    return [(name, sum(_batches[: i + 1])) for i, name in enumerate(names)]


class _Registry(CollectorRegistry):
    """Adds the label `process`, the process id, to every sample."""

    def collect(self) -> Iterator[Metric]:
        process = str(os.getpid())
        for metric in super().collect():
            metric.samples = [
                sample._replace(labels={**sample.labels, "process": process}) for sample in metric.samples
            ]
            yield metric


_registry = _Registry()
_registry.register(_Own())
ProcessCollector(namespace="chat", registry=_registry)
