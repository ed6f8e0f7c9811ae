"""What the server of a deployment borrows: Flower's SuperLink as an app, its state, and the form of requests."""

from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID, TIMESTAMP_HEADER, TRANSPORT_TYPE_GRPC_RERE
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.supercore import sql_mixin
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER, NodeStatus
from flwr.supercore.utils import int64_to_uint64
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

__all__ = [
    "FLEET_HTTP_PUBLIC_KEY_HEADER",
    "FLEET_HTTP_SIGNATURE_HEADER",
    "NOOP_ACCOUNT_NAME",
    "NOOP_FLWR_AID",
    "TIMESTAMP_HEADER",
    "TRANSPORT_TYPE_GRPC_RERE",
    "NoOpControlAuthnPlugin",
    "NodeStatus",
    "PushMessagesRequest",
    "SuperLinkLifespan",
    "SuperLinkLifespanConfig",
    "create_app",
    "int64_to_uint64",
    "sql_mixin",
]
