"""What runs at a site: Flower's SuperNode, which talks to the server, and the approved app, which answers messages.

The server sends an app bundle with every run. Its hash is compared with the bundle that this site's own installed code
makes (`federation.deployment.app_bundle`); the bundle itself is never unpacked. What runs is the installed
`client_app`, in a process forked for each message from one that has imported all that training needs, and that ends
when no message comes. Any other work a server could ask of a SuperNode is not taken up.
"""

import hashlib
import json
import multiprocessing
import os
import secrets
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Error, Message

from data.errors import InputError
from data.files import replaced
from federation.contract import ONE_MESSAGE, Contract, Privacy
from federation.deployment.app_bundle import bundle_hash
from federation.flower_internals.common import (
    HEARTBEAT_DEFAULT_INTERVAL,
    SYSTEM_TIME_TOLERANCE,
    TIMESTAMP_TOLERANCE,
    public_key_to_bytes,
)
from federation.flower_internals.site import (
    AcquireTaskRequest,
    ActivateNodeRequest,
    DeactivateNodeRequest,
    FleetHttpClient,
    HeartbeatSender,
    NodeAuthHttpInterceptor,
    RuntimeHttpClient,
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SubStatus,
    SuperExecAuthHttpInterceptor,
    TaskType,
    make_simple_http_retry_invoker,
    make_task_heartbeat_fn_http,
)
from federation.guard import end_guarded, end_with, flower_environment, free_port, start_guarded
from federation.messages import REFUSALS, UNAPPROVED_APP
from federation.privacy.ledger import LEDGER, BudgetSpent, Ledger
from federation.site_home import SiteHome
from federation.workers import cool_down, nameless_main, warm_up
from mfscsn.choices import MEANS

CONTEXT = multiprocessing.get_context("forkserver")
POLL_SECONDS = 0.1
WARM_SECONDS = 60.0  # without a message, after which what training needs is imported no longer
AGAIN_SECONDS, LONGEST_PAUSE = 5.0, 60.0  # before another try; it doubles
SILENT_SECONDS = 120.0  # without a question to the server a SuperNode is taken for dead
LOG_BYTES = 5 * 2**20
# For a message to come whole: of one whose run has ended, Flower keeps a part, and waits for hours
WHOLE_SECONDS = 120.0
PART_SECONDS = 0.05  # before another try for a part of a message that is not here yet; it doubles
ACQUIRE = "/flwr.proto.Runtime/AcquireTask"


class Unreachable(InputError):
    """The server does not answer; it may later."""


def run_site(home: SiteHome, say: Callable[[str], object]) -> None:
    """Answer the server's messages until the process is told to end; a lost connection is taken up again.

    Parameters
    ----------
    home : SiteHome
    say : callable
        Told one line an event.

    Raises
    ------
    InputError
        When the server is not the one of the invitation, or does not know this site's key.
    """
    approved, told, pause = bundle_hash(), "", AGAIN_SECONDS
    say(f"approved app bundle: {approved}")
    if home.invitation.app != approved:
        say(f"the invitation was made with another version of mfscsn (bundle {home.invitation.app}): rounds will fail")
    for line in _privacy(home, home.site.privacy) if home.site.privacy else []:
        say(line)
    private = ["federation.privacy.private_training"] if home.site.privacy else []
    modules = ["federation.deployment.launcher", "federation.flower_internals.message", *private]
    warm = partial(warm_up, home.threads, *modules)
    warm()
    with nameless_main(), CONTEXT.Pool(1) as pool:
        most_bytes = pool.apply(largest_message, (str(home.path),))
    cool_down()
    while True:
        try:
            check_connection(home)
        except Unreachable as error:
            if str(error) != told:
                say(f"{error}; tries again")
            told = str(error)
        else:
            told, began = "", time.monotonic()
            with _supernode(home, most_bytes) as supernode:
                say(f"connected to {home.invitation.server}")
                _answer_messages(warm, supernode, approved, say)
            log = home.path / "flower" / "supernode.log"
            say(f"the connection ended; {log} says why; tries again")
            if time.monotonic() > began + LONGEST_PAUSE:
                pause = AGAIN_SECONDS
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def check_connection(home: SiteHome) -> None:
    """Check that the server shows the right certificate and knows this site's key; it is sent nothing else.

    Raises
    ------
    Unreachable
        When nothing answers there.
    InputError
        One line that says what does not fit, and what to do.
    """
    server, where = home.invitation.server, f"site {home.site.name!r}: server {home.invitation.server}"
    try:
        private = load_ssh_private_key(home.key.read_bytes(), None)
    except (OSError, ValueError) as error:
        raise InputError(f"{home.key}: cannot be read as a site's private key; restore it from your backup") from error
    public = private.public_key()
    remembered = home.path / "flower" / "node.json"
    client = FleetHttpClient.from_server_address(
        server,
        False,
        home.invitation.certificate.encode(),
        interceptors=[
            RuntimeVersionHttpInterceptor(component_name="SuperNode"),
            NodeAuthHttpInterceptor(private, public),  # type: ignore[arg-type]
        ],
    )
    with client:
        try:
            if remembered.exists():  # a connection that was cut off stands in the way of a new one for a minute
                with suppress(httpx.HTTPStatusError):
                    client.DeactivateNode(DeactivateNodeRequest(node_id=int(json.loads(remembered.read_text()))))
            key = public_key_to_bytes(public)  # type: ignore[arg-type]
            node = client.ActivateNode(
                ActivateNodeRequest(public_key=key, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
            ).node_id
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
        except httpx.HTTPStatusError as error:
            if error.response.status_code >= 500:
                raise Unreachable(f"{where}: answers with HTTP {error.response.status_code}") from error
            if (off := _clock_is_off(error.response)) is not None:
                raise Unreachable(
                    f"{where}: this machine's clock is {abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the"
                    " server's, and what it signs is refused; set the clock (NTP)"
                ) from error
            if error.response.status_code not in (401, 412):
                raise InputError(
                    f"{where}: answers with HTTP {error.response.status_code}; check that it is the server of the"
                    " invitation, and that both have the same version"
                ) from error
            raise InputError(
                f"{where}: does not know this site's key; send {home.public_key.name} to the coordinator, who adds it"
                " with `mfscsn server add-site` (it also says so when this key is connected from elsewhere)"
            ) from error
        except httpx.TransportError as error:
            raise _transport_fault(where, error) from error
    with replaced(remembered) as out:
        out.write(json.dumps(node).encode())


def _clock_is_off(answer: httpx.Response) -> float | None:
    """Return by how many seconds this machine is ahead of the server, where a signature is refused for it."""
    try:
        off = time.time() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None
    # A second either way is the header's, which has whole ones
    ahead, behind = SYSTEM_TIME_TOLERANCE - 1, TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE - 1
    return off if answer.status_code == 401 and not -behind < off < ahead else None


def _transport_fault(where: str, error: Exception) -> InputError:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__cause__ or cause.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return InputError(
            f"{where}: shows a certificate that does not fit the invitation ({cause.verify_message});"
            " it may be another server: ask the coordinator for a new invitation; or this machine's clock is wrong"
        )
    if cause is not None:
        return InputError(f"{where}: does not speak TLS ({cause.reason}); check the address in invitation.toml")
    return Unreachable(f"{where}: cannot be reached ({error}); check that it runs and that the firewall lets you out")


@dataclass(frozen=True)
class _SuperNode:
    """A SuperNode's process, the address and secret to ask it for work, and the file that shows when it last asked."""

    process: "subprocess.Popen[bytes]"
    address: str
    secret: bytes
    asked: Path

    def silent(self) -> float:
        """Return for how many seconds it has asked the server nothing."""
        return time.time() - self.asked.stat().st_mtime


@contextmanager
def _supernode(home: SiteHome, most_bytes: int) -> Iterator[_SuperNode]:
    """Run Flower's SuperNode as long as the block lasts."""
    folder = home.path / "flower"
    folder.mkdir(exist_ok=True, mode=0o700)
    secret, certificate, port = folder / "secret", folder / "authority.pem", free_port()
    asked = folder / "asked"
    asked.touch()
    if (log := folder / "supernode.log").exists() and log.stat().st_size > LOG_BYTES:
        log.replace(folder / "supernode.log.1")
    secret.touch(mode=0o600)
    secret.write_bytes(secrets.token_bytes(32))
    certificate.write_text(home.invitation.certificate)
    command = [
        sys.executable, "-P", "-m", "federation.deployment.supernode", str(asked), str(most_bytes),
        "--superlink", home.invitation.server, "--root-certificates", str(certificate),
        "--auth-supernode-private-key", str(home.key), "--isolation", "process", "--host", "127.0.0.1",
        "--port", str(port), "--superexec-auth-secret-file", str(secret),
        "--node-config", f"site={json.dumps(str(home.path))}",
    ]  # fmt: skip
    supernode = start_guarded(command, log, flower_environment(folder), folder)
    try:
        yield _SuperNode(supernode, f"127.0.0.1:{port}", secret.read_bytes(), asked)
    finally:
        end_guarded(supernode)


def _answer_messages(
    warm: Callable[[], None], supernode: _SuperNode, approved: str, say: Callable[[str], object]
) -> None:
    """Take up ClientApp tasks one after another, each in a process of its own, until the SuperNode ends.

    What training needs is imported by `warm` when the first message comes, and given back when none has come for a
    while: most of a site's life is waiting.
    """
    proof = SuperExecAuthHttpInterceptor(master_secret=supernode.secret, protected_methods=frozenset({ACQUIRE}))
    client = _runtime(supernode.address, "SuperExec", proof)
    wanted = AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
    answered: float | None = None  # when; None while nothing is imported
    while supernode.process.poll() is None:
        if answered is not None and time.monotonic() > answered + WARM_SECONDS:
            cool_down()
            answered = None
        if supernode.silent() > SILENT_SECONDS:
            say(f"the SuperNode has asked the server nothing for {SILENT_SECONDS:g} s; it is started again")
            break
        try:
            answer = client.AcquireTask(wanted)
        except httpx.HTTPError:  # it starts, or it ends
            time.sleep(POLL_SECONDS)
            continue
        if answer.token:
            warm()
            began, whole, late = time.monotonic(), CONTEXT.Event(), False
            words = (supernode.address, answer.token, approved, os.getpid(), whole)
            process = CONTEXT.Process(target=answer_message, args=words)
            with nameless_main():
                process.start()
            while process.is_alive():
                process.join(timeout=POLL_SECONDS * 10)
                late = not whole.is_set() and time.monotonic() > began + WHOLE_SECONDS
                if late or supernode.process.poll() is not None:  # nobody is left to take the answer
                    process.kill()
            if late:
                say(
                    f"a message did not come whole in {WHOLE_SECONDS:g} s: its run may have ended; it is given up, with"
                    " what waits behind it, and the SuperNode is started again"
                )
                break  # behind a server that was killed several times, several such wait, each for as long
            if process.exitcode:
                say(f"the process for a message ended with {process.exitcode}; this site has no answer in this round")
            else:
                say(f"answered a message in {time.monotonic() - began:.3f} s")
            supernode.asked.touch()  # while it waited for this answer it asked nothing
            answered = time.monotonic()
        time.sleep(POLL_SECONDS)
    if answered is not None:
        cool_down()
    client.close()


def largest_message(home: str) -> int:
    """Return how many bytes a message of the server can have under a site's contract, with room to spare."""
    from federation.site_network import server_network

    layers = server_network(SiteHome(home).federation).common_state()
    return 2 * sum(values.numel() * values.element_size() for values in layers.values()) + 2 * 2**20


def answer_message(address: str, token: str, approved: str, command: int, whole: Any) -> None:
    """Answer one message with the installed app, if that is what the server asks for; end when the command ends.

    `whole` is an event, set when the message is here.
    """
    end_with(command)  # or it would save private layers beside the next process of this site
    from federation import client_app
    from federation.flower_internals.message import pull_task_input, push_message, push_task_output, run_clientapp

    # Flower waits a second, and most messages are whole by then
    flower: Any = run_clientapp
    flower.pull_and_inflate_object_from_tree = partial(
        flower.pull_and_inflate_object_from_tree, initial_backoff=PART_SECONDS
    )
    client = _runtime(address, "flwr-clientapp", RuntimeTokenHttpInterceptor(token), make_simple_http_retry_invoker())
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    message, context, _, bundle = pull_task_input(client)
    whole.set()
    sent_hash = hashlib.sha256(bundle.content).hexdigest()
    if sent_hash == approved:
        reply = client_app.app(message, context)
    else:
        print(f"refused: the server asks to run app bundle {sent_hash}, approved is {approved}", flush=True)
        reply = Message(Error(UNAPPROVED_APP, REFUSALS[UNAPPROVED_APP]), reply_to=message)
    push_message(client, reply, context)
    push_task_output(client, context, SubStatus.COMPLETED, "")
    heartbeat.stop()
    client.close()


def _privacy(home: SiteHome, privacy: Privacy) -> list[str]:
    """Say what noise promises, what is spent, and what the next run may take."""
    ledger, training = Ledger(home.path / LEDGER, privacy), home.federation.training
    unit = ledger.unit.partition(",")[0]
    lines = [
        f"with noise: all rounds of all runs tell at most epsilon {privacy.epsilon:g} (delta {privacy.delta:g}) of"
        f" {unit}, {ledger.epsilon:.3g} is spent ({LEDGER}); then this site trains no more",
    ]
    try:
        if privacy.n_trials is None:
            from federation.privacy.persons import plan

            lines.append(plan(ledger, home.federation.contract))
        else:
            from federation.privacy.private_training import steps_of_round

            lines.append(ledger.plan(training.rounds, *steps_of_round(privacy.n_trials, home.federation.settings)))
    except BudgetSpent as error:
        lines.append(f"no further run: {error}")
    if ledger.account.unprotected_runs:
        lines.append(
            f"BUT {ledger.account.unprotected_runs} run(s) before had no noise: whatever they told of {unit} is told,"
            " and is not in that number"
        )
    return lines


def _runtime(address: str, component: str, proof: Any, retry: Any = None) -> RuntimeHttpClient:
    """Talk to the SuperNode on this machine, with a proof of who asks."""
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name=component), proof],
        retry_invoker=retry,
    )


def _sums(contract: Contract) -> list[str]:
    """Say what one message holds."""
    if contract.body == MEANS:
        lines = [
            "these are no layers that were trained but a sum over persons: of each, and of each label, how far the"
            f" label's mean lies from the person's, cut to the length {contract.person_norm:g}"
        ]
    else:
        lines = [
            "these are no layers that were trained but sums over the site's trials: how many each label has, the sum of"
            " their tangent vectors, and one scatter of them all"
        ]
    if not contract.secure_aggregation:
        lines.append(
            "WARNING: without secure aggregation the server reads this site's own sums: which labels it has, and the"
            " span in which its trials lie"
        )
    return lines


def sends(home: SiteHome) -> list[str]:
    """List in plain words what leaves this site."""
    from federation.site_network import server_network

    site, contract = home.site, home.federation.contract
    layers = server_network(home.federation).common_state()
    n_values = sum(values.numel() for values in layers.values())
    shapes = ", ".join(f"{name} {tuple(values.shape)}" for name, values in layers.items())
    count = "nothing about the number of trials" if contract.weighting == "equal" else "the number of training trials"
    metrics = ", ".join(site.metrics) or "no training metric"
    if contract.secure_aggregation:
        count, metrics = "keys and shares of secrets that serve one round", "no training metric"
    masked = ", masked: the server can read the sites' sum alone" if contract.secure_aggregation else ""
    scores = (
        "the mean balanced accuracy of your target subjects, and how many they are"
        if site.scores
        else "no score (scores = [] in site.toml)"
    )
    noised = []
    if site.privacy is not None:
        noised = _privacy(home, site.privacy)
    decoder = []
    stays = "or a layer of the site's own"
    if contract.strategy == ONE_MESSAGE:
        decoder, stays = _sums(contract), "electrodes, means of subjects, or covariances of the site's own"
    elif contract.space and contract.share == "middle":
        decoder = [
            "that is a decoder whole but for its heads: with the seed of the run it tells which labels a site has"
            + ("; of the sum, not whose" if contract.secure_aggregation else "; secure_aggregation hides whose"),
        ]
        stays = "electrodes, means of subjects, averages of norms, or a head"
    when = "once" if contract.strategy == ONE_MESSAGE else "in every round"
    return [
        f"{when}: the {len(layers)} arrays of the common layers, {n_values} numbers ({shapes}){masked}",
        *decoder,
        f"with them: {count}; {metrics}; the site's name {site.name!r}",
        *noised,
        f"after the last round: {scores}",
        "besides: this machine's network address, the site's public key, and how long a message took (Flower's own)",
        f"never: recordings, trials, labels, channel lists, subjects, {stays}",
    ]
