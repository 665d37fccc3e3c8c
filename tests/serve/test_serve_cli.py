"""`liquid serve` as a process of its own: it says when it is ready, answers, and ends when told to."""

import json
import re
import signal
import subprocess
import sys

import httpx2
import pytest

from liquid_mm.checkpoint import save_checkpoint
from liquid_mm.cli.app import app
from liquid_mm.errors import UserError
from tiny_checkpoint import tiny_checkpoint


def test_it_answers_until_it_is_told_to_stop(tmp_path):
    save_checkpoint(tiny_checkpoint("gemma"), tmp_path / "tiny")
    command = [sys.executable, "-m", "liquid_mm.cli", "serve", tmp_path / "tiny", "--port", "0", "--no-page"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            messages = []
            for line in process.stderr:
                if line.startswith("{"):
                    messages.append(json.loads(line)["message"])
                if messages and (found := re.search(r"http://127\.0\.0\.1:\d+", messages[-1])):
                    break
            assert "ready" in messages
            body = {"model": "tiny", "prompt": "a red", "max_tokens": 3}
            answer = httpx2.post(f"{found[0]}/v1/completions", json=body, timeout=60)
            assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 3)
            process.send_signal(signal.SIGTERM)
            rest = process.stderr.read()
            assert process.wait(60) == -signal.SIGTERM, "ended by the signal, as its sender expects"
        finally:
            process.kill()
    assert '"message": "stopped"' in rest


def test_an_empty_key_does_not_open_the_door():
    with pytest.raises(UserError, match="an API key is empty"):
        app(["serve", "--api-key", ""], standalone_mode=False)
