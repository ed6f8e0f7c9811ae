"""What the process for one message borrows: it takes the message from the SuperNode, and hands the answer back."""

from flwr.supernode.runtime import run_clientapp
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

__all__ = ["pull_task_input", "push_message", "push_task_output", "run_clientapp"]
