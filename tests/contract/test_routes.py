"""Every route of our own API asks who calls, but for those that are open to all; and whether he may."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from starlette.routing import Route

from pktmirror.aws import Call
from pktmirror.control.store import Store
from pktmirror.control.trail import Trail, read
from pktmirror.model.limits import Quotas
from tests.calls import perform
from tests.contract.endpoint import InProcess

OWN = "/pktmirror/v1/"
OPEN = {("GET", f"{OWN}ca"), ("POST", f"{OWN}join")}  # the CA's certificate; a token shows who joins
OF_HOSTS = ("agents/", "monitors/")


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[InProcess]:
    store, trail = Store.open(tmp_path / "store"), Trail(tmp_path)
    yield InProcess(store, trail, Quotas())
    store.close()
    trail.close()


def routes(endpoint: InProcess) -> list[tuple[str, str]]:
    """Method and path of each, with names filled in."""
    return [
        (method, route.path.replace("{name}", "x").replace("{document}", "y"))
        for route in endpoint.endpoint.app().routes
        if isinstance(route, Route) and route.path.startswith(OWN)
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


def answers(endpoint: InProcess, asked: list[tuple[str, str]], headers: Any) -> list[tuple[int, str]]:
    async def ask() -> list[tuple[int, str]]:
        transport = httpx.ASGITransport(endpoint.endpoint.app())
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            found = [await client.request(method, path, headers=headers(method, path)) for method, path in asked]
            return [(each.status_code, str(each.json().get("code"))) for each in found]

    return asyncio.run(ask())


def test_no_route_is_open_but_those_that_are_meant_to_be(endpoint: InProcess, tmp_path: Path) -> None:
    asked = [each for each in routes(endpoint) if each not in OPEN]
    assert len(asked) > 30
    for (method, path), (status, code) in zip(asked, answers(endpoint, asked, lambda *_: {}), strict=True):
        assert (status, code) in ((401, "AuthFailure"), (403, "MissingAuthenticationToken")), (method, path, code)
    assert all(each is not None and each["userIdentity"]["type"] == "Unknown" for each in read(tmp_path))


def test_each_signed_route_has_a_right_of_its_own(endpoint: InProcess, tmp_path: Path) -> None:
    """A user whom nothing allows any is refused at every route, and the log says at which."""
    user = _user(endpoint)

    def signed(method: str, path: str) -> dict[str, str]:
        request = AWSRequest(method, f"http://localhost{path}")
        SigV4Auth(user, "pktmirror", endpoint.plane.region).add_auth(request)
        return {"host": "localhost", **dict(request.headers.items())}

    asked = [each for each in routes(endpoint) if each not in OPEN and not each[1][len(OWN) :].startswith(OF_HOSTS)]
    assert answers(endpoint, asked, signed) == [(403, "AccessDenied")] * len(asked)
    found = [each for each in read(tmp_path) if each is not None and each["eventSource"] == "pktmirror"]
    assert len(found) == len(asked)
    names = {each["eventName"] for each in found}
    rights = (Path(__file__).parents[2] / "docs/reference/rights.md").read_text()
    [told] = [line for line in rights.splitlines() if line.startswith("| our own API")]
    assert names == set(told.rpartition("account: ")[2].rstrip(" |").split(", "))


def _user(endpoint: InProcess) -> Credentials:
    def call(operation: str, **parameters: str) -> Any:

        return perform(endpoint.plane, Call("iam", operation, dict(parameters)), 1.0)

    statement = {"Effect": "Allow", "Action": "ec2:*", "Resource": "*"}
    call("CreateUser", UserName="ada")
    document = json.dumps({"Version": "2012-10-17", "Statement": statement})
    call("PutUserPolicy", UserName="ada", PolicyName="p", PolicyDocument=document)
    key = call("CreateAccessKey", UserName="ada")["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])
