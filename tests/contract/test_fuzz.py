"""Whatever is asked, the answer is a result or a refusal: no 5xx, no traceback, and a refusal changes nothing.

In process, so that ten thousand requests are a matter of seconds; script/soak sends a million.
"""

import asyncio
import re
from typing import Any
from xml.etree import ElementTree

import msgspec
import pytest

from pktmirror.control.store import Store
from pktmirror.model.limits import Quotas
from tests.budget import fuzzed_requests
from tests.contract.endpoint import Beginning, InProcess
from tests.contract.plane import found
from tests.contract.requests import EC2_OPERATIONS, KINDS, Fuzz, Sent

BATCH = 100
"""Requests that follow each other in one store, each in what those before have made."""
LOOKED_AT_EVERY = 20
"""So many requests are made between two looks at all that is stored, which takes longer than a request."""

_ID = re.compile(rf"\b({'|'.join(KINDS)})-[0-9a-f]{{17}}\b")


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Beginning:
    interfaces = tuple(found(f"web{number}", f"10.0.0.{number}") for number in range(1, 6))
    quotas = Quotas(filters_per_account=10, targets_per_account=10, sessions_per_account=10)
    return Beginning(tmp_path_factory.mktemp("fuzz"), interfaces, quotas)


class Conversation:
    """Requests that follow each other, and the ids of what they have made."""

    def __init__(self, beginning: Beginning, endpoint: InProcess) -> None:
        self.known = {kind: [id_ for id_ in beginning.ids if id_.startswith(f"{kind}-")] for kind in KINDS}
        self._endpoint = endpoint

    async def send(self, request: Sent) -> int:
        """The status of the answer, which is well-formed."""
        headers = self._endpoint.signed(request.body, dict(request.headers), request.service)
        if request.changed is not None:
            headers = request.changed.of(headers)
        status, answer = await self._endpoint.post(request.body, headers)
        assert status == 200 or 400 <= status < 500, f"{status} for {request}: {answer!r}"
        if answer.startswith(b"<?xml"):
            ElementTree.fromstring(answer)
        else:
            assert request.service == "monitoring"
            msgspec.json.decode(answer)
        for made in _ID.finditer(answer.decode()):
            if made[0] not in self.known[made[1]]:
                self.known[made[1]].append(made[0])
        return status


def rows(store: Store) -> Any:
    with store.read() as transaction:
        return transaction.dump()


async def converse(beginning: Beginning, endpoint: InProcess, seed: int) -> tuple[set[str | None], set[int]]:
    """The operations that succeeded, and all statuses, of the requests of a seed."""
    conversation = Conversation(beginning, endpoint)
    fuzz = Fuzz(seed, conversation.known)
    succeeded: set[str | None] = set()
    statuses: set[int] = set()
    for number in range(BATCH):
        request = fuzz.request()
        before = rows(endpoint.store) if number % LOOKED_AT_EVERY == seed % LOOKED_AT_EVERY else None
        status = await conversation.send(request)
        statuses.add(status)
        if status == 200:
            succeeded.add(request.operation)
        elif before is not None:
            assert rows(endpoint.store) == before, f"refused, and something has changed: {request}"
    refused = endpoint.plane.refused.counts()
    assert "InternalError" not in refused, f"seed {seed}: {refused}"
    return succeeded, statuses


@pytest.mark.timeout(fuzzed_requests(10_000) // 10)  # an idle machine answers 300 requests a second
def test_no_request_breaks_the_endpoint_and_a_refusal_changes_nothing(beginning: Beginning) -> None:
    succeeded: set[str | None] = set()
    statuses: set[int] = set()
    for seed in range(fuzzed_requests(10_000) // BATCH):
        with beginning.endpoint() as endpoint:
            some = asyncio.run(converse(beginning, endpoint, seed))
        succeeded |= some[0]
        statuses |= some[1]
    assert succeeded >= set(EC2_OPERATIONS), "they do not get far: what is refused at the door shows nothing"
    assert statuses >= {200, 400, 401, 412}
