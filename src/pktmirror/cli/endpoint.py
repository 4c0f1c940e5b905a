"""The control plane as these commands see it: where it is, whose key signs, and what it answers. An edge module.

Our own API goes by httpx, the EC2 calls by a botocore client. Whatever fails on the way is a `Refusal`.
"""

import json
import os
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NewType, TypeVar
from urllib.parse import quote, urlencode

import botocore.session
import httpx
import msgspec
import typer
from botocore import xform_name
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from pktmirror import control
from pktmirror.cli.options import DEFAULT_STATE
from pktmirror.model.refusal import Refusal

T = TypeVar("T")

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
_SERVICE = "pktmirror"
_URL = re.compile(r"https?://[^/?#\s]+(/[^?#\s]*)?")
_SAID_WHAT_TO_DO = {
    "DependencyViolation",
    "IncorrectState",
    "InvalidHostId.NotFound",
    "InvalidNetworkInterface.InUse",
    "InvalidNetworkInterfaceID.NotFound",
    "InvalidParameterValue",
    "TraceInProgress",
    "TraceLimitExceeded",
}
_KEY_REFUSED = {"AuthFailure", "InvalidClientTokenId", "SignatureDoesNotMatch"}
_NOT_ALLOWED = {"AccessDenied", "UnauthorizedOperation"}
_IAM_SAID = {"DeleteConflict", "EntityAlreadyExists", "LimitExceeded", "MalformedPolicyDocument", "NoSuchEntity"}
# What botocore would otherwise read from the shell, where a profile may be named that does not exist here.
_SESSION_VARIABLES = {
    "AWS_PROFILE": "profile",
    "AWS_CONFIG_FILE": "config_file",
    "AWS_SHARED_CREDENTIALS_FILE": "credentials_file",
}

StateOption = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="PKTMIRROR_STATE",
        help="The control plane's state directory, for its address and a key. "
        f"Without it the AWS variables count where AWS_ENDPOINT_URL is set, and else {DEFAULT_STATE}.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]

OwnPath = NewType("OwnPath", str)
"""A path of our own API below its version, with what is asked; `own_path` makes it."""


def own_path(*segments: str, **asked: str) -> OwnPath:
    """The path of these segments, each as it is, whatever signs it has; raises `Refusal` for one that can be none.

    A slash is refused as well: a server may take it for the end of the segment though it is quoted.
    """
    try:
        quoted = [quote(segment, safe="") for segment in segments]
    except UnicodeEncodeError:
        quoted = []
    for segment in segments:
        if segment in ("", ".", "..") or "/" in segment or not quoted:
            raise Refusal(f"{segment!r} is no name and no id.", do="write one as the lists of `pktmirror` show it")
    return OwnPath("/".join(quoted) + (f"?{urlencode(asked)}" if asked else ""))


@dataclass(frozen=True, slots=True)
class Access:
    """A control plane and a key for it; ``session`` is what botocore's own session is told beside them.

    ``ca_bundle`` is the file of the CAs that its certificate may be of, as AWS clients have it; None: the usual ones.
    """

    url: str
    region: str
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str | None = None

    @classmethod
    def of(cls, variables: Mapping[str, str]) -> "Access":
        """From the AWS_* variables; raises `Refusal` where one that it cannot do without is missing."""
        needed = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        missing = [name for name in needed if not variables.get(name)]
        if missing:
            raise Refusal(
                "The environment does not say how to reach the control plane.",
                found=f"no {' and no '.join(missing)}",
                do='run `eval "$(pktmirror env)"`, or name the state directory with --state',
            )
        url = variables["AWS_ENDPOINT_URL"]
        if _URL.fullmatch(url) is None:
            raise Refusal(
                f"The environment names no control plane: {url} is no URL.",
                do='write AWS_ENDPOINT_URL as in http://127.0.0.1:8773, or run `eval "$(pktmirror env)"`',
            )
        return cls(
            url.rstrip("/"),
            variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION") or control.DEFAULT_REGION,
            variables["AWS_ACCESS_KEY_ID"],
            variables["AWS_SECRET_ACCESS_KEY"],
            {name: variables[variable] for variable, name in _SESSION_VARIABLES.items() if variables.get(variable)},
            variables.get("AWS_CA_BUNDLE") or None,
        )


def access(state: Path | None, variables: Mapping[str, str]) -> Access:
    """A state directory that is named wins. Keys of the shell count only beside an endpoint: else they are AWS's."""
    if state is None and variables.get("AWS_ENDPOINT_URL"):
        return Access.of(variables)
    return Access.of(control.environment(state or DEFAULT_STATE))


class Endpoint:
    """A control plane that can be asked."""

    def __init__(self, access_: Access) -> None:
        self.access = access_
        self._credentials = Credentials(access_.access_key_id, access_.secret_access_key)
        self._clients: dict[str, Any] = {}

    @classmethod
    def found(cls, state: Path | None) -> "Endpoint":
        """The one of the state directory or of the environment."""
        return cls(access(state, os.environ))

    def get(self, path: OwnPath, shape: type[T]) -> T:
        """``GET /pktmirror/v1/path``, as a value of the shape."""
        return self._asked("GET", path, b"", shape)

    def post(self, path: OwnPath, shape: type[T], body: bytes = b"") -> T:
        """``POST /pktmirror/v1/path``; its answer as a value of the shape."""
        return self._asked("POST", path, body, shape)

    def put(self, path: OwnPath, body: bytes, shape: type[T]) -> T:
        """``PUT /pktmirror/v1/path``; its answer as a value of the shape."""
        return self._asked("PUT", path, body, shape)

    def withdraw(self, path: OwnPath, shape: type[T]) -> T:
        """``DELETE /pktmirror/v1/path`` of what answers with what has changed by it."""
        return self._asked("DELETE", path, b"", shape)

    def _asked(self, method: str, path: OwnPath, body: bytes, shape: type[T]) -> T:
        answer = self._answer(method, f"{self.access.url}/pktmirror/v1/{path}", body)
        if answer.status_code != httpx.codes.OK:
            raise self._refused(*_code_and_message(answer))
        try:
            return msgspec.json.decode(answer.content, type=shape)
        except msgspec.DecodeError as error:
            raise self._not_understood(str(error)) from None

    def delete(self, path: OwnPath) -> None:
        """``DELETE /pktmirror/v1/path``."""
        answer = self._answer("DELETE", f"{self.access.url}/pktmirror/v1/{path}")
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise self._refused(*_code_and_message(answer))

    def change(self, method: str, path: OwnPath, body: bytes) -> None:
        """A request of our own API that answers with nothing."""
        answer = self._answer(method, f"{self.access.url}/pktmirror/v1/{path}", body)
        if answer.status_code != httpx.codes.NO_CONTENT:
            raise self._refused(*_code_and_message(answer))

    def called(self, service: str, operation: str, **parameters: Any) -> dict[str, Any]:
        """One AWS call; ``operation`` and ``parameters`` are botocore's names."""
        try:
            answer: dict[str, Any] = getattr(self._client(service), operation)(**parameters)
            return answer
        except ClientError as error:
            told = error.response["Error"]
            raise self._refused(told["Code"], told["Message"]) from None
        except ParamValidationError as error:
            raise Refusal("The request is not complete.", found=str(error), do="correct what it names") from None
        except BotoCoreError as error:
            raise self._unreachable(str(error)) from None

    def listed(self, operation: str, member: str, shape: type[T], **parameters: Any) -> list[T]:
        """All items of an EC2 Describe call, page by page; ``operation`` and ``member`` are botocore's names."""
        found: list[T] = []
        try:
            call = getattr(self._client("ec2"), operation)
            while True:
                answer = call(**parameters)
                found += msgspec.convert(answer[member], list[shape])  # type: ignore[valid-type]
                if not answer.get("NextToken"):
                    return found
                parameters["NextToken"] = answer["NextToken"]
        except ClientError as error:
            told = error.response["Error"]
            raise self._refused(told["Code"], told["Message"]) from None
        except BotoCoreError as error:
            raise self._unreachable(str(error)) from None
        except msgspec.ValidationError as error:
            raise self._not_understood(str(error)) from None

    def perform(self, operation: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """One call of the EC2 API by its own name, as in CreateTrafficMirrorTarget, and its answer."""
        try:
            answer: dict[str, Any] = getattr(self._client("ec2"), xform_name(operation))(**parameters)
            return answer
        except ClientError as error:
            code, message = error.response["Error"]["Code"], error.response["Error"]["Message"]
            if code in _KEY_REFUSED or code == "RequestExpired":
                raise self._refused(code, message) from None
            raise Refusal(
                f"{operation} is refused.", found=f"{code}: {message}", do="change what it names, and try again"
            ) from None
        except BotoCoreError as error:
            raise self._unreachable(str(error)) from None

    def _answer(self, method: str, url: str, body: bytes = b"") -> httpx.Response:
        ca = self.access.ca_bundle
        try:
            request = AWSRequest(method, url, data=body)
            SigV4Auth(self._credentials, _SERVICE, self.access.region).add_auth(request)
            timeout = httpx.Timeout(CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S)
            # No proxy: the operator named the control plane, and nothing stands between.
            return httpx.request(
                method,
                url,
                content=body,
                headers=dict(request.headers.items()),
                timeout=timeout,
                trust_env=False,
                verify=ca is None or ssl.create_default_context(cafile=ca),
            )
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, OSError) as error:
            raise self._unreachable(str(error) or type(error).__name__) from None

    def _client(self, service: str) -> Any:
        """The client of a service, made once: that takes a while."""
        if service not in self._clients:
            self._clients[service] = self._new_client(service)
        return self._clients[service]

    def _new_client(self, service: str) -> Any:
        session = botocore.session.Session()
        for name, value in self.access.session.items():
            session.set_config_variable(name, value)
        return session.create_client(
            service,
            region_name=self.access.region,
            endpoint_url=self.access.url,
            aws_access_key_id=self.access.access_key_id,
            aws_secret_access_key=self.access.secret_access_key,
            verify=self.access.ca_bundle or True,
            config=Config(
                proxies={},
                retries={"total_max_attempts": 1},
                connect_timeout=CONNECT_TIMEOUT_S,
                read_timeout=READ_TIMEOUT_S,
            ),
        )

    def _unreachable(self, found: str) -> Refusal:
        return Refusal(
            f"The control plane at {self.access.url} does not answer.",
            found=found,
            do="start it with `pktmirror serve`, or name the state directory of the one that runs with --state",
        )

    def _not_understood(self, found: str) -> Refusal:
        return Refusal(
            f"The answer of {self.access.url} is not understood.",
            found=found,
            do="run the same version of pktmirror here and there: compare `pktmirror --version`",
        )

    def _refused(self, code: str, message: str) -> Refusal:
        if code in _KEY_REFUSED:
            return Refusal(
                f"The control plane at {self.access.url} refuses the access key {self.access.access_key_id}.",
                found=f"{code}: {message}",
                do='run `eval "$(pktmirror env)"` again, or name that control plane\'s state directory with --state',
            )
        if code in _NOT_ALLOWED:
            return Refusal(
                f"The access key {self.access.access_key_id} may not do that.",
                found=message,
                do="use a key that may, or have its user's policies changed: `pktmirror iam put-policy`",
            )
        if code in _IAM_SAID or code == "InvalidAccountId.NotFound":
            return Refusal(
                f"The control plane at {self.access.url} refuses the request, and nothing has changed.",
                found=f"{code}: {message}",
                do="change what it names, and try again; `pktmirror iam --help` lists what shows users and accounts",
            )
        if code == "RequestExpired":
            return Refusal(
                f"The control plane at {self.access.url} finds the request too old or too new.",
                found=message,
                do="set the clocks of both machines",
            )
        if code in _SAID_WHAT_TO_DO:
            return Refusal(
                f"The control plane at {self.access.url} refuses the request, and nothing has changed.",
                found=f"{code}: {message}",
                do="change what it names, and try again; `pktmirror interfaces` and `pktmirror network show` tell more",
            )
        return Refusal(
            f"The control plane at {self.access.url} refuses the request.",
            found=f"{code}: {message}",
            do="check that the address is that of `pktmirror serve`; what it logs says more",
        )


def _code_and_message(answer: httpx.Response) -> tuple[str, str]:
    """From an answer of our own API; whoever else stands there may answer anything."""
    try:
        told = json.loads(answer.content)
        return str(told["code"]), str(told["message"])
    except (ValueError, TypeError, KeyError):
        return f"HTTP {answer.status_code}", answer.reason_phrase or "no reason given"
