from __future__ import annotations

from ipaddress import ip_address

import pytest

from agentflow.integrations.egress import EgressPolicy, EgressRefused, NotResolved, is_public, parse_rule
from agentflow.integrations.http import HttpClient
from tests.servers import canary

# Hosts as a template might write them.  Whatever a resolver makes of them, none may be reached.
_HOSTS = r"""
127.0.0.1 127.0.0.2 127.1 127.0.1 2130706433 0x7f000001 0x7f.0.0.1 0x7f.1 0177.0.0.1 017700000001 0177.1
127.255.255.254 localhost LOCALHOST localhost. ip6-localhost 0.0.0.0 0 0.0.0.1 10.0.0.1 10.255.255.255
172.16.0.1 172.31.255.255 192.168.0.1 192.168.1.254 0xc0a80001 3232235521 100.64.0.1 100.100.100.200
100.127.255.255 169.254.169.254 169.254.170.2 0xa9fea9fe 2852039166 0251.0376.0251.0376 169.254.0.1
168.63.129.16 192.0.0.1 192.0.0.192 192.0.2.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.7
192.88.99.1 224.0.0.1 239.255.255.250 240.0.0.1 255.255.255.255 [::1] [::] [0:0:0:0:0:0:0:1]
[::127.0.0.1] [::ffff:127.0.0.1] [::ffff:7f00:1] [::ffff:10.0.0.1] [::ffff:169.254.169.254]
[::ffff:0:127.0.0.1] [64:ff9b::7f00:1] [64:ff9b::a9fe:a9fe] [64:ff9b:1::1] [2002:7f00:1::]
[2002:a9fe:a9fe::1] [2001:0:53aa:64c:0:fbff:80ff:fffe] [2001:db8::1] [3fff::1] [fe80::1]
[fe80::a9fe:a9fe] [fec0::1] [fc00::1] [fd00:ec2::254] [fd12:3456:789a::1] [ff02::1] [ff0e::1] [100::1]
[5f00::1] [4000::1]
127.1.2.3 127.255.255.254 10.255.255.255 172.31.255.255 192.168.255.255 100.100.100.200 169.254.170.2
169.254.255.255 0.1.2.3 198.19.255.255 240.0.0.1 255.255.255.254 239.255.255.250 0x7f.0.0.0x1 0177.1
[::ffff:a00:1] [::ffff:c0a8:1] [2002:c0a8:1::] [64:ff9b::a00:1] [fd00::1] [febf::1] [ff05::2] [::2]
"""
REFUSED_HOSTS = _HOSTS.split()
_URLS = r"""
file:///etc/passwd ftp://127.0.0.1/ gopher://127.0.0.1:{port}/_x dict://127.0.0.1:{port}/
ws://127.0.0.1:{port}/ unix:///run/x.sock http+unix://%2Frun%2Fx.sock/ //127.0.0.1:{port}/
127.0.0.1:{port} http:///x http:// javascript:1 http://public.example@127.0.0.1:{port}/
http://user:password@127.0.0.1:{port}/ http://127.0.0.1:{port}@public.example/
http://127.0.0.1\@public.example:{port}/ http://127。0。0。1:{port}/ http://127．0．0．1:{port}/
http://①②⑦.⓪.⓪.①:{port}/ http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ:{port}/ http://%31%32%37.0.0.1:{port}/
http://127.0.0.1%00.public.example:{port}/ http://[::1%25lo]:{port}/ http://[fe80::1%25eth0]:{port}/
http://[::1:{port}/ http://127.0.0.1:99999999/ HTTP://LocalHost:{port}/ https://localhost:{port}/
http://localhost:{port}#@public.example/
"""  # noqa: RUF001 - such dots are what is tried
REFUSED_URLS = _URLS.split()


def test_the_corpus_is_large_enough() -> None:
    assert len(set(REFUSED_HOSTS + REFUSED_URLS)) >= 120


def test_nothing_inside_is_ever_reached() -> None:
    reached = []
    with canary() as bird:
        client = HttpClient(EgressPolicy())
        urls = [f"http://{host}:{bird.port}/" for host in REFUSED_HOSTS]
        urls += [url.format(port=bird.port) for url in REFUSED_URLS]
        for url in urls:
            try:
                client.request("GET", url, timeout_s=5)
            except EgressRefused:
                continue
            except NotResolved:  # not even the resolver knows such a spelling
                continue
            reached.append(url)
    assert reached == []
    assert bird.visitors == []


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with canary() as bird:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{bird.port}")
        with pytest.raises(EgressRefused):
            HttpClient(EgressPolicy()).request("GET", "http://10.0.0.1/", timeout_s=5)
    assert bird.visitors == []


@pytest.mark.parametrize(
    "text", ["93.184.216.34", "1.1.1.1", "::ffff:8.8.8.8", "2606:4700::1111", "2a00:1450::1"]
)
def test_public_addresses_are_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.parametrize(
    ("entry", "host", "port", "address", "expected"),
    [
        ("127.0.0.1:8701", "127.0.0.1", 8701, "127.0.0.1", True),
        ("127.0.0.1:8701", "127.0.0.1", 6379, "127.0.0.1", False),
        ("127.0.0.1:8701", "127.0.0.1", 8701, "::ffff:127.0.0.1", True),
        ("10.2.0.0/16", "db.internal", 80, "10.2.3.4", True),
        ("10.2.0.0/16", "db.internal", 80, "10.3.3.4", False),
        ("db.internal", "db.internal", 80, "10.2.3.4", True),
        ("db.internal", "web.internal", 80, "10.2.3.4", False),
        ("*.corp.example", "a.b.corp.example", 80, "10.2.3.4", True),
        ("*.corp.example", "corp.example", 80, "10.2.3.4", False),
        ("*.corp.example", "evilcorp.example", 80, "10.2.3.4", False),
        ("[::1]:8080", "::1", 8080, "::1", True),
        ("[::1]:8080", "::1", 80, "::1", False),
        # A name that an outsider may point anywhere does not open the metadata service.
        ("db.internal", "db.internal", 80, "169.254.169.254", False),
        ("169.254.169.254", "169.254.169.254", 80, "169.254.169.254", True),
        ("not a host", "db.internal", 80, "10.2.3.4", False),
    ],
)
def test_what_an_allow_list_opens(entry: str, host: str, port: int, address: str, expected: bool) -> None:
    assert EgressPolicy((entry,)).permits(host, port, ip_address(address)) is expected


@pytest.mark.parametrize("entry", ["", "a b", "http://x", "x/24/1", "a:0", "a:99999", "*", "10.0.0.0/99"])
def test_an_entry_that_nobody_understands_is_none(entry: str) -> None:
    with pytest.raises(ValueError, match=r"port outside|is no host|looks like"):
        parse_rule(entry)


def test_a_name_with_one_bad_address_among_good_ones_is_refused() -> None:
    policy = EgressPolicy()
    with pytest.raises(EgressRefused):
        policy.addresses(
            "mixed.example", 80, resolver=lambda name, timeout: ["1.1.1.1", "10.0.0.1"], timeout_s=1
        )


def test_a_name_without_addresses_is_a_passing_failure() -> None:
    with pytest.raises(NotResolved) as caught:
        EgressPolicy().addresses("none.example", 80, resolver=lambda name, timeout: [], timeout_s=1)
    assert (caught.value.failure.kind, caught.value.failure.outcome_unknown) == ("transient", False)
