"""The interface as others see it: schemathesis against the description, and the official client."""

from __future__ import annotations

import schemathesis
from fake_server import fake_server
from hypothesis import HealthCheck, settings
from schemathesis.config import SchemathesisConfig

EXAMPLES = 12  # a route: bounded, as each writes notes

server = fake_server(num_slots=16, max_waiting=64)
refusals = {"negative_data_rejection": {"expected-statuses": ["400", "404", "405", "413", "415"]}}
config = SchemathesisConfig.from_dict({"checks": refusals})
schema = schemathesis.openapi.from_asgi("/openapi.json", server.app, config=config)


@schema.parametrize()
@settings(max_examples=EXAMPLES, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
def test_schemathesis_finds_no_failure(case: schemathesis.Case) -> None:
    case.call_and_validate()
