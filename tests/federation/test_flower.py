"""The version of Flower that a deployment builds on: it uses more of it than its public doors."""

import importlib
import inspect
import re
from importlib.metadata import requires, version
from pathlib import Path

import flwr.superlink.routers.fleet.router as fleet
import pytest
from flwr.superlink.routers.control import router as control
from packaging.requirements import Requirement

from federation.deployment.door import PATHS
from federation.flower_internals.site import TaskType

REPOSITORY = Path(__file__).resolve().parents[2]
ROOM = REPOSITORY / "federation" / "flower_internals"
PUBLIC = ("app", "clientapp", "serverapp", "simulation")  # of flwr: what Flower documents
# Each borrowed name: a function's or a class's parameters, or a constant's value; "" where only the name matters
BORROWED = {
    "common": {
        "HEARTBEAT_DEFAULT_INTERVAL": 30,
        "SUPERLINK_NODE_ID": 1,
        "SYSTEM_TIME_TOLERANCE": 5,
        "TIMESTAMP_TOLERANCE": 300,
        "ErrorCode": "",
        "Run": "",
        "TaskIdentity": "",
        "bytes_to_private_key": "private_key_bytes",
        "bytes_to_public_key": "public_key_bytes",
        "get_all_nested_objects": "obj",
        "public_key_to_bytes": "public_key",
        "verify_signature": "public_key, message, signature",
    },
    "site": {
        "AcquireTaskRequest": "",
        "ActivateNodeRequest": "",
        "DeactivateNodeRequest": "",
        "FleetHttpClient": "base_url, interceptors, verify, timeout, retry_invoker",
        "HeartbeatSender": "heartbeat_fn",
        "NodeAuthHttpInterceptor": "private_key, public_key",
        "RuntimeHttpClient": "base_url, interceptors, verify, timeout, retry_invoker",
        "RuntimeTokenHttpInterceptor": "token",
        "RuntimeVersionHttpInterceptor": "component_name",
        "SubStatus": "",
        "SuperExecAuthHttpInterceptor": "master_secret, protected_methods",
        "TaskType": "",
        "make_simple_http_retry_invoker": "()",
        "make_task_heartbeat_fn_http": "client",
    },
    "message": {
        "pull_task_input": "client",
        "push_message": "client, message, context",
        "push_task_output": "client, context, sub_status, details",
        "run_clientapp": "",
    },
    "supernode": {
        "FleetHttpClient": "base_url, interceptors, verify, timeout, retry_invoker",
        "fleet_http_connection": "",
        "flower_supernode": "()",
    },
    "server": {
        "FLEET_HTTP_PUBLIC_KEY_HEADER": "flwr-public-key",
        "FLEET_HTTP_SIGNATURE_HEADER": "flwr-signature",
        "NOOP_ACCOUNT_NAME": "none",
        "NOOP_FLWR_AID": "<id:none>",
        "TIMESTAMP_HEADER": "flwr-timestamp",
        "TRANSPORT_TYPE_GRPC_RERE": "grpc-rere",
        "NoOpControlAuthnPlugin": "()",
        "NodeStatus": "",
        "PushMessagesRequest": "",
        "SuperLinkLifespan": "config, state_factory",
        "SuperLinkLifespanConfig": (
            "control_address, health_server_address, host, port, insecure, certificates, superexec_auth_secret,"
            " authn_plugin, event_log_plugin, fleet_event_log_plugin, enable_event_log, artifact_provider,"
            " enable_supernode_auth, fleet_api_type, fleet_api_address, simulation, ssl_ca_certfile, ssl_certfile,"
            " ssl_keyfile, database, isolation, runtime_dependency_install"
        ),
        "create_app": "config, superlink_lifespan_class",
        "int64_to_uint64": "signed",
        "sql_mixin": "",
    },
    "secure_sum": {
        "RECORD_KEY_CONFIGS": "secaggplus_configs",
        "RECORD_KEY_STATE": "secaggplus_state",
        "Code": "",
        "FitIns": "parameters, config",
        "FitRes": "status, parameters, num_examples, metrics",
        "Key": "",
        "Parameters": "tensors, tensor_type",
        "Stage": "",
        "Status": "code, message",
        "at_site": "",
        "bytes_to_ndarray": "tensor",
        "combine_shares": "share_list",
        "fitres_to_recorddict": "fitres, keep_input",
        "generate_shared_key": "private_key, public_key",
        "ndarrays_to_parameters": "ndarrays",
    },
    "secure_workflow": {
        "MAIN_CONFIGS_RECORD": "config",
        "MAIN_PARAMS_RECORD": "parameters",
        "SecAggPlusWorkflow": (
            "num_shares, reconstruction_threshold, max_weight, clipping_range, quantization_range, modulus_range,"
            " timeout"
        ),
        "WorkflowKey": "",
        "WorkflowState": "",
    },
}
# What is replaced, or handed on, inside of a borrowed module
INSIDE = {
    ("message", "run_clientapp", "pull_and_inflate_object_from_tree"): "initial_backoff",
    ("secure_sum", "at_site", "secaggplus_mod"): "msg, ctxt, call_next",
    ("secure_sum", "at_site", "pseudo_rand_gen"): "seed, num_range, dimensions_list",
    ("secure_sum", "at_site", "quantize"): "parameters, clipping_range, target_range",
    ("supernode", "fleet_http_connection", "FleetHttpClient"): "base_url",
    ("server", "sql_mixin", "SQLITE_PRAGMAS"): "",
    ("site", "FleetHttpClient", "from_server_address"): "interceptors",
    ("site", "RuntimeHttpClient", "from_server_address"): "retry_invoker",
    ("secure_workflow", "SecAggPlusWorkflow", "setup_stage"): "grid, context, state",
    ("secure_workflow", "SecAggPlusWorkflow", "share_keys_stage"): "grid, context, state",
    ("secure_workflow", "SecAggPlusWorkflow", "collect_masked_vectors_stage"): "grid, context, state",
    ("secure_workflow", "SecAggPlusWorkflow", "unmask_stage"): "grid, context, state",
}
MOVED = (
    "Flower {version} has {name} of federation.flower_internals.{file} in another form: {found!r}, not {expected!r};"
    ' read docs/flower.md, "Another version of Flower"'
)


def told(file, name, found, expected):
    return MOVED.format(version=version("flwr"), file=file, name=name, found=found, expected=expected)


def parameters(thing) -> str:
    return ", ".join(name for name in inspect.signature(thing).parameters if name != "self") or "()"


def test_the_installed_flower_is_the_one_that_we_ask_for():
    (asked,) = {str(r.specifier) for r in map(Requirement, requires("mfscsn")) if r.name == "flwr"}
    assert version("flwr") in Requirement(f"flwr{asked}").specifier


@pytest.mark.parametrize("file", BORROWED)
def test_what_is_borrowed_is_there_and_as_it_was(file):
    module = importlib.import_module(f"federation.flower_internals.{file}")
    assert set(module.__all__) == BORROWED[file].keys()
    for name, expected in BORROWED[file].items():
        thing = getattr(module, name)
        found = parameters(thing) if expected and callable(thing) else thing if expected else ""
        assert found == expected, told(file, name, found, expected)


@pytest.mark.parametrize(("file", "name", "inside"), INSIDE)
def test_what_is_replaced_inside_of_flower_is_there(file, name, inside):
    thing = getattr(getattr(importlib.import_module(f"federation.flower_internals.{file}"), name), inside)
    if expected := INSIDE[file, name, inside]:
        assert expected in parameters(thing), told(file, f"{name}.{inside}", parameters(thing), expected)


def test_every_file_of_the_room_is_looked_at():
    assert {path.stem for path in ROOM.glob("*.py")} - {"__init__"} == BORROWED.keys()


def test_nobody_else_borrows():
    inner = re.compile(rf"(?:from|import) flwr\.(?!(?:{'|'.join(PUBLIC)})\b)\w+|[\"']flwr\.\w+\.")
    assert inner.search("from flwr.supercore.run import Run") and inner.search('import_module("flwr.client.mod")')
    assert not inner.search("from flwr.serverapp.strategy import FedAvg")
    for folder in ("mfscsn", "data", "federation", "experiments", "examples"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if path.parent != ROOM:
                assert not inner.search(path.read_text()), f"{path}: import it in federation/flower_internals"


def test_the_door_for_sites_opens_to_all_of_the_fleet_api_and_none_of_the_commands():
    assert {route.path for route in fleet.router.routes} >= PATHS
    assert not PATHS & {route.path for route in control.routes}
    assert TaskType.CLIENT_APP == "flwr-clientapp"
