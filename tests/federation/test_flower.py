"""The version of Flower that a deployment builds on: it uses more of it than its public doors."""

from importlib.metadata import version

import flwr.superlink.routers.fleet.router as fleet
from flwr.supercore.constant import TaskType
from flwr.superlink.routers.control import router as control

from federation.deployment.door import PATHS


def test_the_pin_holds():
    assert version("flwr").startswith("1.41.")  # before raising it, read federation/deployment


def test_the_door_for_sites_opens_to_all_of_the_fleet_api_and_none_of_the_commands():
    assert {route.path for route in fleet.router.routes} >= PATHS
    assert not PATHS & {route.path for route in control.routes}
    assert TaskType.CLIENT_APP == "flwr-clientapp"
