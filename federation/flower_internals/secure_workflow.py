"""What a secure sum borrows at the server: the order of SecAgg+'s stages."""

from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow, WorkflowState

__all__ = ["MAIN_CONFIGS_RECORD", "MAIN_PARAMS_RECORD", "SecAggPlusWorkflow", "WorkflowKey", "WorkflowState"]
