"""An agent that answers 202 and calls back over HTTP, before its answer has arrived or after."""

from __future__ import annotations

import json
import urllib.request

from tests.outside import Client
from tests.scenarios.agents import calling, echo, template
from tests.servers import Exchange, HttpServer
from tests.waiting import PATIENCE_S


def bring(url: str, body: object) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as reply:
        assert json.loads(reply.read()) == {"success": True}


def test_results_are_brought_before_the_202_and_after_it(client: Client, server: HttpServer) -> None:
    def fast(exchange: Exchange) -> None:
        bring(exchange.headers["callback-url"], {"output": "fast"})
        exchange.reply(status=202)

    server.on("/fast", fast)
    server.on("/slow", lambda exchange: exchange.reply(status=202))
    blocks = [calling(server, name, path=f"/{name}", method="POST") for name in ("fast", "slow")]
    for block in blocks:
        block["configuration"]["callback"] = {"timeout": 60_000}
    execution_id = client.run(template(*blocks, echo("both", "fast", "slow")))
    client.until_block(execution_id, "fast", "completed")
    client.until_block(execution_id, "slow", "waiting_external")
    explained = client.get(f"/executions/{execution_id}/explain")
    assert explained["reason"]["code"] == "waiting_callback"
    (url,) = [seen.headers["callback-url"] for seen in server.seen if seen.path == "/slow"]
    bring(url, {"output": "slow"})
    assert client.ended(execution_id, 5)["status"] == "completed"
    assert client.blocks(execution_id)["both"]["output"] == {"fast": "fast", "slow": "slow"}
    lines = client.get(f"/executions/{execution_id}/logs?limit=500")["logs"]
    said = "The result of attempt 1 of step “slow” was brought by its agent."
    assert said in [line["message"] for line in lines]
