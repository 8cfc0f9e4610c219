"""The control API, the page's safety and the command."""

import json
import signal
import smtplib
import socket
import subprocess
import sys

import pytest
import requests

from deploy.demo.sandbox import Client, Options, Sandbox


def test_behaviours_apply_in_the_order_they_were_posted(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=500, times=1)
    sandbox.misbehave(channel="slack", status=503)
    answers = [requests.post(sandbox.slack_webhook_url, json={"text": "x"}, timeout=10).status_code for _ in range(3)]
    assert answers == [500, 503, 503]
    assert [(one["status"], one["left"], one["hits"]) for one in sandbox.behaviours()] == [(503, None, 2)]


def test_one_channel_can_be_cleared(sandbox: Sandbox) -> None:
    sandbox.misbehave(channel="slack", status=500)
    sandbox.misbehave(channel="aligo", status=500)
    sandbox.behave("slack")
    assert [one["channel"] for one in sandbox.behaviours()] == ["aligo"]


@pytest.mark.parametrize(
    ("behaviour", "problem"),
    [
        ({"channel": "fax"}, "channel: Input should be 'smtp', 'slack' or 'aligo'"),
        ({"channel": "slack", "statsu": 500}, "statsu: Extra inputs are not permitted"),
        ({"channel": "slack", "status": 99}, "status: Input should be greater than or equal to 200"),
        ({"channel": "slack", "times": 0}, "times: Input should be greater than or equal to 1"),
        (
            {"channel": "smtp", "stage": "send"},
            "stage: smtp has connect, ehlo, starttls, auth, mail, rcpt, data, message",
        ),
        ({"channel": "smtp", "headers": {"a": "b"}}, "headers: only slack and aligo have them"),
        ({"channel": "slack", "refuse": {"a": 550}}, "refuse: only smtp at rcpt and aligo at send have recipients"),
    ],
)
def test_wrong_behaviour_is_refused_by_field(sandbox: Sandbox, behaviour: dict[str, object], problem: str) -> None:
    with pytest.raises(requests.HTTPError, match=r"^422 ") as refused:
        sandbox.misbehave(**behaviour)
    assert refused.value.response.json()["detail"].startswith(problem)
    assert sandbox.behaviours() == []


def test_control_takes_no_form_that_a_page_elsewhere_could_send(sandbox: Sandbox) -> None:
    url = f"{sandbox.url}/sandbox/behaviour"
    body = '{"channel": "slack", "status": 500}'
    assert requests.post(url, data=body, headers={"Content-Type": "text/plain"}, timeout=10).status_code == 415
    assert sandbox.behaviours() == []


def test_messages_of_unknown_channel_are_refused(sandbox: Sandbox) -> None:
    assert requests.get(f"{sandbox.url}/sandbox/messages?channel=fax", timeout=10).status_code == 422


def test_clearing_starts_a_new_session(sandbox: Sandbox) -> None:
    requests.post(sandbox.slack_webhook_url, json={"text": "x"}, timeout=10)
    before = requests.get(f"{sandbox.url}/sandbox/messages", timeout=10).json()
    sandbox.clear()
    after = requests.get(f"{sandbox.url}/sandbox/messages", timeout=10).json()
    assert len(before["messages"]) == 1
    assert after["messages"] == []
    assert after["session"] != before["session"]


def test_only_the_newest_messages_are_kept() -> None:
    with Sandbox(Options(slack_rate=0, keep=3)) as sandbox:
        for number in range(5):
            requests.post(sandbox.slack_webhook_url, json={"text": f"{number}"}, timeout=10)
        assert [one["payload"]["text"] for one in sandbox.messages()] == ["2", "3", "4"]


def test_health_and_page_are_served_with_a_policy_that_runs_nothing_foreign(sandbox: Sandbox) -> None:
    assert requests.get(f"{sandbox.url}/-/healthy", timeout=10).status_code == 200
    page = requests.get(sandbox.url, timeout=10)
    policy = page.headers["Content-Security-Policy"]
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "script-src 'self';" in policy
    assert "unsafe" not in policy


def test_runbooks_are_there_to_be_read_as_the_gateway_serves_them(sandbox: Sandbox) -> None:
    page = requests.get(f"{sandbox.url}/runbooks/ko/ColdChainOrdersWaiting.md", timeout=10)
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert page.text.startswith("# ColdChainOrdersWaiting: 배차 대기 주문 많음\n")
    for other in ("ko/NoSuchAlert.md", "fr/ColdChainCpuHigh.md", "ko/..%2f..%2fREADME.md", "..%2fREADME.md"):
        assert requests.get(f"{sandbox.url}/runbooks/{other}", timeout=10).status_code == 404


def test_html_mail_is_served_without_scripts_and_foreign_pictures(sandbox: Sandbox) -> None:
    with smtplib.SMTP(*sandbox.smtp, timeout=10) as client:
        client.sendmail(
            "a@b.c", ["d@e.f"], b"Content-Type: text/html; charset=utf-8\r\n\r\n<script>alert(1)</script>\r\n"
        )
    (mail,) = sandbox.messages("smtp")
    shown = requests.get(f"{sandbox.url}/sandbox/messages/{mail['id']}/html", timeout=10)
    policy = shown.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:;")
    assert policy.endswith("sandbox allow-popups allow-popups-to-escape-sandbox")


def test_stopping_lets_go_of_what_hangs() -> None:
    with Sandbox() as sandbox:
        sandbox.misbehave(channel="smtp", stage="connect", hang=True)
        hung = socket.create_connection(sandbox.smtp, timeout=10)
    with hung:
        assert hung.recv(1) == b""


COMMAND = [sys.executable, "-m", "deploy.demo.sandbox"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_command_says_where_it_listens_and_ends_on_a_signal(end: signal.Signals) -> None:
    command = [*COMMAND, "--http", "127.0.0.1:0", "--smtp", "127.0.0.1:0", "--aligo-senders", "0299998888"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        addresses = json.loads(process.stdout.readline())
        with Client(addresses["http"]) as client:
            assert client.messages() == []
            assert addresses["slack_webhook_url"] == client.slack_webhook_url
            assert addresses["aligo"]["senders"] == ["0299998888"]
        process.send_signal(end)
        assert process.wait(30) == 0
        assert process.stderr.read() == ""


def test_command_names_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [*COMMAND, "--http", f"127.0.0.1:{port}", "--smtp", "127.0.0.1:0"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == f"sandbox: cannot listen on 127.0.0.1:{port}: Address already in use\n"
