"""A door between one site and the server that writes down every byte the site sends, and what those bytes say."""

import threading
import time

import httpx
import uvicorn
from flwr.app import Message
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents

# What a SuperNode asks without sending anything of a run: who it is, is there work, give me the work
ASKS = {
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "get-run", "get-fab", "pull-object",
    "confirm-message-received",
}  # fmt: skip
SENDS = {"push-messages", "push-object"}


class Recorder:
    """A TLS door with the server's own certificate; `record` holds (path, body) of every request."""

    def __init__(self, server, port):
        self.record = []
        upstream = f"https://127.0.0.1:{port}"
        self.client = httpx.AsyncClient(verify=str(server / "authority.pem"), timeout=60)

        async def app(scope, receive, send):
            body, more = b"", True
            while more:
                event = await receive()
                body, more = body + event.get("body", b""), event.get("more_body", False)
            self.record.append((scope["path"], body))
            headers = [(k, v) for k, v in scope["headers"] if k not in (b"host", b"content-length")]
            answer = await self.client.request(scope["method"], upstream + scope["path"], content=body, headers=headers)
            kind = answer.headers.get("content-type", "application/octet-stream")
            await send(
                {
                    "type": "http.response.start",
                    "status": answer.status_code,
                    "headers": [
                        (b"content-type", kind.encode()),
                        (b"content-length", str(len(answer.content)).encode()),  # a site takes no answer without
                    ],
                }
            )
            await send({"type": "http.response.body", "body": answer.content})

        config = uvicorn.Config(
            app, host="127.0.0.1", port=0, ssl_certfile=server / "server.pem", ssl_keyfile=str(server / "server.key"),
            lifespan="off", log_level="warning",
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started:
            time.sleep(0.01)
        self.port = self.server.servers[0].sockets[0].getsockname()[1]

    def close(self):
        self.server.should_exit = True
        self.thread.join(timeout=10)


def messages_of(record, whole=True) -> list[Message]:
    """Put together the messages that a record's requests carried; all of them, or those whose parts were all sent.

    A part that the server has already, of another site's message with the same content, is not sent again.
    """
    contents, ids = {}, []
    for path, body in record:
        if path == "/v1/fleet/push-messages":
            request = PushMessagesRequest.FromString(body)
            ids += [tree.object_id for tree in request.message_object_trees]
        elif path == "/v1/fleet/push-object":
            pushed = PushObjectRequest.FromString(body)
            contents[pushed.object_id] = pushed.object_content
    messages = []
    for number in ids:
        try:
            messages.append(inflate_object_from_contents(number, contents, keep_object_contents=True))
        except KeyError:
            if whole:
                raise
    return messages


def check_record(record, layers, metrics, scores, name):
    """Raise AssertionError when anything was sent that the contract does not allow."""
    for path, body in record:
        kind = path.removeprefix("/v1/fleet/")
        assert kind in ASKS | SENDS, path
        assert kind in SENDS or len(body) < 400, (path, len(body))  # keys and numbers
    for message in messages_of(record):
        check_message(message, layers, metrics, scores, name)


def check_message(message, layers, metrics, scores, name):
    """Check one message: the records it may have, their keys, their shapes, and that numbers are numbers."""
    content = message.content
    if message.metadata.message_type == "train":
        assert set(content) == {"common", "metrics", "site"}
        assert {k: tuple(a.shape) for k, a in content.array_records["common"].items()} == layers
        assert set(content.metric_records["metrics"]) == {"num-examples", *metrics}
    else:
        assert message.metadata.message_type == "evaluate" and set(content) == {"metrics", "site"}
        assert set(content.metric_records["metrics"]) == set(scores)
    assert all(isinstance(value, int | float) for value in content.metric_records["metrics"].values())
    assert dict(content.config_records["site"]) == {"name": name}
