"""Targets: where copies go. AWS knows three types; a union says which one a target is (spec 1.3)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class InterfaceTarget:
    """A network interface, ``network-interface`` in EC2's words."""

    interface_id: str


@dataclass(frozen=True, slots=True)
class LoadBalancerTarget:
    """A network load balancer by its ARN. It is accepted and described; nothing is delivered to it yet."""

    arn: str


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """A gateway load balancer endpoint by its id. It is accepted and described; nothing is delivered to it yet."""

    endpoint_id: str


Target = InterfaceTarget | LoadBalancerTarget | EndpointTarget

NETWORK_INTERFACE = "network-interface"
NETWORK_LOAD_BALANCER = "network-load-balancer"
GATEWAY_LOAD_BALANCER_ENDPOINT = "gateway-load-balancer-endpoint"
