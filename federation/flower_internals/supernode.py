"""What a site's SuperNode borrows: Flower's own, whose client can be replaced."""

from flwr.supernode import fleet_http_connection
from flwr.supernode.cli.flower_supernode import flower_supernode
from flwr.supernode.fleet_http_client import FleetHttpClient

__all__ = ["FleetHttpClient", "fleet_http_connection", "flower_supernode"]
