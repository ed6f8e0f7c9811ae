"""What a monitor reads, in Prometheus's format: of a server, and of a site."""

import time
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from data.files import is_locked
from federation.deployment.keys import days_left
from federation.deployment.server_home import ServerHome
from federation.privacy.ledger import LEDGER, Ledger
from federation.site_home import SiteHome

MOMENT = "%Y-%m-%d %H:%M:%S"


class _Gauges(Collector):
    def __init__(self, gauges: Iterable[GaugeMetricFamily]):
        self.gauges = list(gauges)

    def collect(self) -> Iterator[Metric]:
        yield from self.gauges


def server_metrics(home: ServerHome, n_bytes: dict[int, int]) -> bytes:
    """Describe a server: its sites, its newest run, its certificate.

    Parameters
    ----------
    home : ServerHome
    n_bytes : mapping of node to bytes
        What the door has taken from each, since it opened.
    """
    connected = GaugeMetricFamily("mfscsn_site_connected", "Whether a site is connected.", labels=["site"])
    heard = GaugeMetricFamily("mfscsn_site_heard_timestamp_seconds", "When a site last asked.", labels=["site"])
    received = GaugeMetricFamily("mfscsn_site_received_bytes", "Taken since the server began.", labels=["site"])
    for number, node in home.nodes_now().items():
        connected.add_metric([node.site], float(node.online))
        received.add_metric([node.site], float(n_bytes.get(number, 0)))
        if node.heard:
            heard.add_metric([node.site], time.mktime(time.strptime(node.heard, MOMENT)))
    days = GaugeMetricFamily("mfscsn_certificate_days", "Until the server's certificate ends.")
    days.add_metric([], days_left(home.path / "server.pem"))
    gauges = [connected, heard, received, days]
    if runs := home.runs():
        run = runs[-1]
        for name, words, value in (
            ("mfscsn_run_round", "The last whole round of the newest run.", run.last_round()),
            ("mfscsn_run_rounds", "The rounds that the newest run is to have.", run.federation.training.rounds),
            ("mfscsn_run_failed", "Whether the newest run ended early.", run.failure() is not None),
        ):
            gauge = GaugeMetricFamily(name, words, labels=["run"])
            gauge.add_metric([run.path.name], float(value))
            gauges.append(gauge)
    return _text(gauges)


def site_metrics(home: SiteHome) -> bytes:
    """Describe a site: its newest run, and what its privacy has spent. It is for the site's own monitor alone."""
    runs = home.runs()
    running = GaugeMetricFamily("mfscsn_site_running", "Whether `mfscsn site run` is at work.")
    running.add_metric([], float(is_locked(home.path, "site")))
    trained = GaugeMetricFamily("mfscsn_site_runs", "The runs that this site took part in.")
    trained.add_metric([], len(runs))
    gauges = [running, trained]
    if runs:
        round_ = GaugeMetricFamily("mfscsn_site_round", "The last round trained in the newest run.", labels=["run"])
        newest = runs[-1].site(home.site.name).private_round(10**9)
        round_.add_metric([runs[-1].path.name], newest or 0)
        gauges.append(round_)
    if home.site.privacy is not None:
        ledger = Ledger(home.path / LEDGER, home.site.privacy)
        unit = ledger.unit.partition(",")[0]
        spent = GaugeMetricFamily("mfscsn_site_epsilon", f"What all runs have told of {unit}.")
        spent.add_metric([], ledger.epsilon)
        budget = GaugeMetricFamily("mfscsn_site_epsilon_budget", "What they may tell.")
        budget.add_metric([], home.site.privacy.epsilon)
        gauges += [spent, budget]
    return _text(gauges)


def _text(gauges: Iterable[GaugeMetricFamily]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Gauges(gauges))
    return generate_latest(registry)
