from __future__ import annotations

import datetime as dt
import gzip
import ssl
import threading
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from agentflow.integrations import http_failures, http_watch
from agentflow.integrations.egress import EgressError, EgressPolicy, EgressRefused
from agentflow.integrations.http import HttpClient
from tests.servers import Exchange, HttpServer, canary, http_server
from tests.waiting import PATIENCE_S


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with http_server() as running:
        yield running


@pytest.fixture
def client(server: HttpServer) -> Iterator[HttpClient]:
    client = HttpClient(EgressPolicy((server.allowed,)))
    yield client
    client.close()


def failure_of(client: HttpClient, url: str, method: str = "GET", timeout_s: float = 10) -> EgressError:
    with pytest.raises(EgressError) as caught:
        client.request(method, url, timeout_s=timeout_s, content=b"{}" if method == "POST" else None)
    return caught.value


def test_an_answer_arrives_whole(server: HttpServer, client: HttpClient) -> None:
    server.on("/", lambda exchange: exchange.json({"a": 1}))
    response = client.request("POST", server.url(), content=b"x", headers={"x-a": "b"}, timeout_s=10)
    assert (response.status, response.body, response.content_type) == (200, b'{"a": 1}', "application/json")
    assert (server.seen[0].body, server.seen[0].headers["x-a"]) == (b"x", "b")


def test_a_name_that_changes_its_address_gains_nothing(server: HttpServer) -> None:
    """The name leads to an allowed address when it is checked, and inside whenever it is asked again."""
    asked: list[str] = []

    def rebinding(name: str, timeout_s: float) -> list[str]:
        asked.append(name)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.3"]

    server.on("/", lambda exchange: exchange.reply(b"allowed", connection="close"))
    with canary() as bird:
        client = HttpClient(EgressPolicy((f"127.0.0.1:{server.port}",)), resolver=rebinding)
        url = f"http://shop.example:{server.port}/"
        assert client.request("GET", url, timeout_s=5).body == b"allowed"
        assert asked == ["shop.example"]  # once for the check and the connection together
        assert server.seen[0].headers["host"] == f"shop.example:{server.port}"
        assert isinstance(failure_of(client, url), EgressRefused)
    assert bird.visitors == []


def test_each_redirect_is_checked_like_the_first_address(server: HttpServer, client: HttpClient) -> None:
    with canary() as bird:
        server.on("/", lambda exchange: exchange.reply(status=302, location=f"http://localhost:{bird.port}/"))
        server.on("/scheme", lambda exchange: exchange.reply(status=302, location="file:///etc/passwd"))
        assert isinstance(failure_of(client, server.url()), EgressRefused)
        assert failure_of(client, server.url("/scheme")).failure.kind == "configuration"
    assert bird.visitors == []


def test_redirects_have_an_end(server: HttpServer, client: HttpClient) -> None:
    server.on("/", lambda exchange: exchange.reply(status=302, location="/"))
    assert failure_of(client, server.url()).failure.code == "too_many_redirects"
    assert len(server.seen) == 6


def test_a_redirect_to_another_server_takes_no_headers_and_no_effects_there(server: HttpServer) -> None:
    with http_server("127.0.0.2") as other:
        other.on("/", lambda exchange: exchange.reply(b"other"))
        server.on("/", lambda exchange: exchange.reply(status=307, location=other.url()))
        client = HttpClient(EgressPolicy((server.allowed, other.allowed)))
        secret = {"authorization": "Bearer s", "x-api-key": "s", "idempotency-key": "k"}
        assert client.request("GET", server.url(), headers=secret, timeout_s=5).body == b"other"
        assert not secret.keys() & other.seen[0].headers.keys()
        assert isinstance(failure_of(client, server.url(), "POST"), EgressRefused)
        assert len(other.seen) == 1


@pytest.mark.parametrize(
    ("status", "kind", "unknown_after_post"),
    [
        (400, "configuration", False),
        (401, "configuration", False),
        (403, "configuration", False),
        (404, "configuration", False),
        (408, "transient", False),
        (425, "transient", False),
        (429, "transient", False),
        (500, "transient", True),
        (501, "configuration", False),
        (502, "transient", True),
        (503, "transient", False),
        (504, "transient", True),
    ],
)
def test_what_a_status_means(status: int, kind: str, unknown_after_post: bool) -> None:
    for method, unknown in (("POST", unknown_after_post), ("GET", False)):
        with pytest.raises(http_failures.BadStatus) as caught:
            http_failures.check_status(status, {}, method=method)
        failure = caught.value.failure
        assert (failure.code, failure.kind, failure.outcome_unknown) == (f"http_{status}", kind, unknown)


def test_retry_after_is_seconds_or_a_date() -> None:
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=90)
    assert http_failures.retry_after_s("7") == 7
    assert http_failures.retry_after_s(format_datetime(soon)) == pytest.approx(90, abs=5)
    assert http_failures.retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert http_failures.retry_after_s("99999999") == 86400
    assert [http_failures.retry_after_s(text) for text in (None, "", "soon", "-3", "1e9")] == [None] * 5


def test_nobody_there_is_no_unknown_outcome(server: HttpServer) -> None:
    with canary() as bird:
        closed = bird.port
    failure = failure_of(
        HttpClient(EgressPolicy((f"127.0.0.1:{closed}",))), f"http://127.0.0.1:{closed}/", "POST"
    )
    assert (failure.failure.code, failure.failure.outcome_unknown) == ("connect_failed", False)


def test_a_connection_that_drops_after_the_request_leaves_the_outcome_unknown(
    server: HttpServer, client: HttpClient
) -> None:
    server.on("/", Exchange.drop)
    failure = failure_of(client, server.url(), "POST").failure
    assert (failure.kind, failure.code, failure.outcome_unknown) == ("transient", "connection_lost", True)


def test_an_answer_that_breaks_off_in_the_middle_leaves_the_outcome_unknown(
    server: HttpServer, client: HttpClient
) -> None:
    def half(exchange: Exchange) -> None:
        exchange.start(content_length="100")
        exchange.write(b"half")
        exchange.drop()

    server.on("/", half)
    failure = failure_of(client, server.url(), "POST").failure
    assert (failure.code, failure.outcome_unknown) == ("connection_lost", True)


def test_a_server_that_never_answers_is_given_up(server: HttpServer, client: HttpClient) -> None:
    server.on("/", server.hold)
    failure = failure_of(client, server.url(), "POST", timeout_s=0.3).failure
    assert (failure.code, failure.outcome_unknown) == ("timeout", True)


def test_a_server_that_drips_for_ever_is_given_up(server: HttpServer, client: HttpClient) -> None:
    """Each read is quick; only the deadline of the whole ends it."""

    def drip(exchange: Exchange) -> None:
        exchange.start(content_length="1000000")
        while not server.stopping.wait(0.02):
            exchange.write(b".")

    server.on("/", drip)
    assert failure_of(client, server.url(), timeout_s=0.4).failure.code == "timeout"


def test_a_gigabyte_is_not_read(server: HttpServer, client: HttpClient) -> None:
    written = []

    def flood(exchange: Exchange) -> None:
        exchange.start(connection="close")
        for _ in range(1024):
            exchange.write(b"x" * 1024 * 1024)
            written.append(1)

    server.on("/", flood)
    server.on("/declared", lambda exchange: exchange.start(content_length=str(2**30)))
    assert failure_of(client, server.url()).failure.code == "response_too_large"
    assert len(written) < 100
    assert failure_of(client, server.url("/declared")).failure.code == "response_too_large"


def test_a_gzip_bomb_is_counted_as_it_unpacks(server: HttpServer, client: HttpClient) -> None:
    bomb = gzip.compress(b"\0" * 200 * 1024 * 1024, 9)
    assert len(bomb) < 300_000
    server.on("/", lambda exchange: exchange.reply(bomb, content_encoding="gzip"))
    assert failure_of(client, server.url()).failure.code == "response_too_large"


def test_gzip_is_unpacked_and_other_encodings_are_not(server: HttpServer, client: HttpClient) -> None:
    server.on("/", lambda exchange: exchange.reply(gzip.compress(b"hello"), content_encoding="gzip"))
    server.on("/br", lambda exchange: exchange.reply(b"hello", content_encoding="br"))
    server.on("/lie", lambda exchange: exchange.reply(b"hello", content_encoding="gzip"))
    assert client.request("GET", server.url(), timeout_s=5).body == b"hello"
    assert failure_of(client, server.url("/br")).failure.code == "bad_response"
    assert failure_of(client, server.url("/lie")).failure.code == "bad_response"


def test_garbage_instead_of_http_is_a_bad_response(server: HttpServer, client: HttpClient) -> None:
    server.on("/", lambda exchange: exchange.write(b"\x00\xff no http at all\r\n\r\n"))
    assert failure_of(client, server.url()).failure.code == "bad_response"


def test_a_cancel_from_another_thread_cuts_the_call(server: HttpServer, client: HttpClient) -> None:
    arrived = threading.Event()
    cancels: list[http_watch.OnCancel] = []

    def hold(exchange: Exchange) -> None:
        arrived.set()
        server.stopping.wait(30)

    def cut() -> None:
        arrived.wait(PATIENCE_S)
        cancels[0]()  # type: ignore[call-arg]

    server.on("/", hold)
    threading.Thread(target=cut, daemon=True).start()
    with pytest.raises(http_failures.CallCancelled) as caught:
        client.request("POST", server.url(), timeout_s=20, on_cancel=cancels.append)  # type: ignore[arg-type]
    assert caught.value.failure.outcome_unknown


def test_certificates_are_checked_against_the_name_and_not_the_address(tmp_path: Path) -> None:
    certificate = _certificate(tmp_path, "shop.example")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    trusting = ssl.create_default_context(cafile=str(certificate))
    with http_server(tls=tls) as server:
        server.on("/", lambda exchange: exchange.reply(b"proved"))
        policy = EgressPolicy((server.allowed,))

        def call(name: str, verify: ssl.SSLContext | bool) -> bytes:
            client = HttpClient(policy, resolver=lambda name, timeout: ["127.0.0.1"], verify=verify)
            return client.request("GET", f"https://{name}:{server.port}/", timeout_s=10).body

        assert call("shop.example", trusting) == b"proved"
        for name, verify in (("bank.example", trusting), ("shop.example", True)):
            with pytest.raises(http_failures.TlsFailed) as caught:
                call(name, verify)
            assert not caught.value.failure.outcome_unknown


def _certificate(folder: Path, name: str) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "server.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    return path
