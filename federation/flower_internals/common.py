"""What the apps, the server and the sites borrow alike."""

from flwr.common.constant import (
    HEARTBEAT_DEFAULT_INTERVAL,
    SUPERLINK_NODE_ID,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
    ErrorCode,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.primitives.asymmetric import (
    bytes_to_private_key,
    bytes_to_public_key,
    public_key_to_bytes,
    verify_signature,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "HEARTBEAT_DEFAULT_INTERVAL",
    "SUPERLINK_NODE_ID",
    "SYSTEM_TIME_TOLERANCE",
    "TIMESTAMP_TOLERANCE",
    "ErrorCode",
    "Run",
    "TaskIdentity",
    "bytes_to_private_key",
    "bytes_to_public_key",
    "get_all_nested_objects",
    "public_key_to_bytes",
    "verify_signature",
]
