"""The services that are spoken, and what their operations take and give, as frozen values.

Read once from the service models that botocore ships: any client's view of the API is this model. Names on
the wire are worked out here, so that `query` and `response` know no rule about names. To speak one more query
service (ELBv2), add its line to `SERVICES`; an operation that takes or gives a map raises ValueError until maps
are written.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from botocore.loaders import Loader
from botocore.model import ServiceModel


@dataclass(frozen=True, slots=True)
class Scalar:
    """``type_name`` is the model's: string, integer, long, boolean, float, double, timestamp, blob."""

    type_name: str


@dataclass(frozen=True, slots=True)
class List:
    """``item_name`` is the element or the form part around an item; None in forms where items stand bare."""

    item: "Shape"
    item_name: str | None


@dataclass(frozen=True, slots=True)
class Member:
    """``name`` is what botocore's users write, ``wire_name`` what travels in this direction: in the body, or
    ``in_query``, the address's."""

    name: str
    wire_name: str
    shape: "Shape"
    required: bool
    in_query: bool = False


@dataclass(frozen=True, slots=True)
class Structure:
    """The members in the model's order, by wire name."""

    name: str
    members: Mapping[str, Member]
    required: tuple[Member, ...]


Shape = Scalar | List | Structure


@dataclass(frozen=True, slots=True)
class Operation:
    """``output`` is None where the model has none: EC2 then answers with ``return`` alone."""

    name: str
    protocol: str
    xml_namespace: str
    input: Structure
    output: Structure | None


@dataclass(frozen=True, slots=True)
class Service:
    """``model_name`` is botocore's folder; ``operations`` None means all that the model has.

    ``protocol`` is the one that is spoken, where the model has several.
    """

    model_name: str
    operations: frozenset[str] | None
    protocol: str | None = None


SERVICES: Mapping[str, Service] = {
    "ec2": Service("ec2", None),
    "sts": Service("sts", frozenset({"GetCallerIdentity"})),
    "iam": Service(
        "iam",
        frozenset(
            {
                *("CreateUser", "GetUser", "ListUsers", "DeleteUser"),
                *("CreateAccessKey", "ListAccessKeys", "UpdateAccessKey", "DeleteAccessKey"),
                *("PutUserPolicy", "GetUserPolicy", "ListUserPolicies", "DeleteUserPolicy"),
            }
        ),
    ),
    "monitoring": Service(
        "cloudwatch", frozenset({"ListMetrics", "GetMetricStatistics", "GetMetricData"}), protocol="json"
    ),
    "ram": Service(
        "ram",
        frozenset(
            {
                *("CreateResourceShare", "UpdateResourceShare", "DeleteResourceShare", "GetResourceShares"),
                *("AssociateResourceShare", "DisassociateResourceShare", "GetResourceShareAssociations"),
                *("GetResourceShareInvitations", "AcceptResourceShareInvitation", "RejectResourceShareInvitation"),
                *("ListResources", "ListPrincipals", "ListPendingInvitationResources", "ListResourceTypes"),
                *("ListResourceSharePermissions", "TagResource", "UntagResource"),
            }
        ),
    ),
}
"""By signing name, which is what a credential scope says."""

_NO_INPUT = Structure("NoInput", {}, ())


@functools.cache
def _model(service: str) -> Any:
    model_name = SERVICES[service].model_name
    return ServiceModel(Loader().load_service_model(model_name, "service-2"), model_name)


@functools.cache
def version(service: str) -> str:
    """The API version of the model, such as 2016-11-15."""
    return str(_model(service).api_version)


@functools.cache
def xml_namespace(service: str) -> str:
    """The namespace of the service's answers."""
    return _xml_namespace(_model(service))


def protocol(service: str) -> str:
    """``ec2``, ``query``, ``json`` or ``rest-json``."""
    return SERVICES[service].protocol or str(_model(service).metadata["protocol"])


def target_prefix(service: str) -> str:
    """What stands before the operation in the header of a JSON request."""
    return str(_model(service).metadata["targetPrefix"])


@functools.cache
def places(service: str) -> Mapping[tuple[str, str], str]:
    """Of a service that is asked by method and path: the operation at each, also of those that are not offered."""
    model = _model(service)
    asked = {name: model.operation_model(name).http for name in model.operation_names}
    return {(str(http["method"]), str(http["requestUri"])): str(name) for name, http in asked.items()}


@functools.cache
def operation_names(service: str) -> frozenset[str]:
    """The actions that can be parsed and answered."""
    names: frozenset[str] = frozenset(_model(service).operation_names)
    spoken = SERVICES[service].operations
    return names if spoken is None else names & spoken


@functools.cache
def operation(service: str, name: str) -> Operation:
    """The operation's shapes. KeyError for a name that is not in `operation_names`."""
    if name not in operation_names(service):
        raise KeyError(f"{service} has no operation {name}")
    return compiled(_model(service), name, protocol(service))


def compiled(model: Any, name: str, protocol: str | None = None) -> Operation:
    """An operation of any of botocore's ``ServiceModel``; ``protocol`` is one of its own, by default the first.

    Of the protocols that write JSON no output shape is kept: results are written as they are.
    """
    modelled = model.operation_model(name)
    protocol = protocol or str(model.metadata["protocol"])
    form, xml = _FORM[protocol], _XML.get(protocol)
    return Operation(
        name,
        protocol,
        _xml_namespace(model),
        _structure(modelled.input_shape, form) if modelled.input_shape is not None else _NO_INPUT,
        _structure(modelled.output_shape, xml) if modelled.output_shape is not None and xml is not None else None,
    )


def _xml_namespace(model: Any) -> str:
    """EC2 answers with a slash at the end, where its model has none."""
    return str(model.metadata.get("xmlNamespace", "")).rstrip("/") + "/"


@dataclass(frozen=True, slots=True)
class _Naming:
    """One protocol, one direction. botocore's serializers and parsers are the other side of each."""

    ec2_form: bool  # names are capitalised and items stand bare: Filter.1.Value.1
    item_name: str | None  # where the model names no item

    def member(self, name: str, modelled: Any) -> str:
        traits: Mapping[str, str] = modelled.serialization
        if not self.ec2_form:
            return _flattened_name(modelled) or traits.get("name", name)
        if "queryName" in traits:
            return traits["queryName"]
        return traits["name"][:1].upper() + traits["name"][1:] if "name" in traits else name

    def item(self, modelled: Any) -> str | None:
        if self.ec2_form or modelled.serialization.get("flattened"):
            return None
        named: str | None = modelled.member.serialization.get("name", self.item_name)
        return named


_FORM: Mapping[str, _Naming] = {
    "ec2": _Naming(True, None),
    "query": _Naming(False, "member"),
    "json": _Naming(False, None),
    "rest-json": _Naming(False, None),
}
_XML: Mapping[str, _Naming] = {"ec2": _Naming(False, "item"), "query": _Naming(False, "member")}


def _flattened_name(modelled: Any) -> str | None:
    """A flattened list travels under its items' name, where they have one."""
    if modelled.type_name == "list" and modelled.serialization.get("flattened"):
        name: str | None = modelled.member.serialization.get("name")
        return name
    return None


def _shape(modelled: Any, naming: _Naming) -> Shape:
    match modelled.type_name:
        case "structure":
            return _structure(modelled, naming)
        case "list":
            return List(_shape(modelled.member, naming), naming.item(modelled))
        case "map":
            raise ValueError(f"{modelled.name} is a map, and no spoken operation has one yet")
        case scalar:
            return Scalar(scalar)


def _structure(modelled: Any, naming: _Naming) -> Structure:
    required = frozenset(modelled.required_members)
    members = [
        Member(
            name,
            naming.member(name, member),
            _shape(member, naming),
            name in required,
            member.serialization.get("location") == "querystring",
        )
        for name, member in modelled.members.items()
    ]
    by_wire_name = {member.wire_name: member for member in members}
    if len(by_wire_name) != len(members):
        raise ValueError(f"{modelled.name} has two members of one wire name")
    return Structure(modelled.name, by_wire_name, tuple(member for member in members if member.required))
