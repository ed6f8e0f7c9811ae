"""What a long piece of work tells whoever watches it."""

from dataclasses import dataclass

from federation.run_folder import RunFolder


@dataclass(frozen=True)
class Progress:
    """A stage, how far it is, and a detail such as the last round's mean loss."""

    stage: str
    done: int
    total: int
    detail: str = ""


def round_line(run: RunFolder, number: int) -> str:
    """Describe how a round went: its mean loss, and who did not answer well."""
    rows = [row for row in run.history() if row["round"] == str(number)]
    losses = [float(row["loss"]) for row in rows if row["loss"]]
    out = [f"{row['site']} {row['status']}" for row in rows if row["status"] != "ok"]
    mean = f"loss {sum(losses) / len(losses):.3f}" if losses else ""
    return "; ".join(part for part in (mean, *out) if part)
