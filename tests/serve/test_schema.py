"""Whatever fits, or nearly fits, the API's own description is answered or refused; the server never fails."""

import pytest
from servekit import Served

schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
from hypothesis import HealthCheck, Phase, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

PATHS = ["/v1/completions", "/v1/chat/completions", "/v1/images/generations", "/v1/images/edits", "/v1/models"]
EXAMPLES = 25


@pytest.fixture(scope="module")
def api(served: Served):
    return schemathesis.openapi.from_url(f"{served.url}/openapi.json")


@pytest.mark.filterwarnings("ignore")  # of schemathesis and what it imports
@pytest.mark.parametrize("mode", ["positive", "negative"])
@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_the_server_fail(api, served, path, mode):
    operation = api[path]["GET" if path.endswith("models") else "POST"]
    generation = schemathesis.GenerationMode(mode)
    if path.endswith("models") and mode == "negative":
        pytest.skip("it takes nothing that could be wrong")

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def ask(data):
        case = data.draw(operation.as_strategy(generation_mode=generation))
        if isinstance(case.body, dict):
            # What may be long is answered in full elsewhere.
            case.body |= {name: 2 for name in ("max_tokens", "max_completion_tokens") if path.endswith("completions")}
        answer = case.call(base_url=served.url, timeout=30)
        assert answer.status_code < 500, answer.text
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"]

    ask()
