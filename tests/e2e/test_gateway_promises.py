"""Promises of the threat model for the gateway: what its log does not contain, and how many files it may open."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from cogen.deploy.limits import Limits
from tests.node_requests import as_record, pushed
from tests.running_gateway import NodeKey, running_gateway

SECRET = "serum-lactate-7731"


def test_neither_a_token_nor_a_body_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of who is let in, who is refused, and who is no member. Red: an enrolment, a body or a header in a line."""
    caplog.set_level(logging.INFO)
    with running_gateway(tmp_path / "fed", Limits()) as door, door.client() as client:
        invite, mine, other = door.invite("grid"), NodeKey(), NodeKey()
        mine.node_id = 1001
        refused = [
            door.enrol(invite, mine, domain="elsewhere").status_code,
            door.enrol(invite, mine, app_sha256="e" * 64).status_code,
            client.post("/enrol", json={"token": invite.token, "domain": SECRET}).status_code,
        ]
        assert (refused, door.enrol(invite, mine).status_code) == ([403, 403, 400], 200)
        assert door.enrol(invite, other).status_code == 403  # used
        for key, status in ((mine, 200), (other, 401)):
            body = pushed(key, as_record(SECRET.encode() * 100)).SerializeToString()
            answer = client.post("/v1/fleet/push-object", content=body, headers=key.headers())
            assert answer.status_code == status
        signed = mine.headers()
    text = caplog.text
    assert text.count("POST /enrol") == 5 and "grid POST /v1/fleet/push-object 200" in text
    assert invite.token not in text and invite.check not in text
    assert SECRET not in text
    assert mine.line.split()[1] not in text and not [v for v in signed.values() if v in text]


LOW = "import resource; h = resource.getrlimit(resource.RLIMIT_NOFILE)[1]; resource.setrlimit(resource.RLIMIT_NOFILE, (256, h));"
RAISED = "from cogen.deploy.gateway_process import raise_file_limit as r; r(); print(resource.getrlimit(resource.RLIMIT_NOFILE))"


def test_the_gateway_may_open_more_files_than_a_shell_allows() -> None:
    """Red: connections of many members that the limits allow and the system refuses."""
    shown = subprocess.run([sys.executable, "-c", LOW + RAISED], capture_output=True, text=True, check=True)
    soft, hard = (int(n) for n in shown.stdout.strip("()\n ").split(","))
    assert soft == (8192 if hard < 0 else min(hard, 8192))
