"""A VPC in Linux network namespaces: for trying the mirror out, for the demo, and for the tests."""

from pktmirror.lab.stage import Lab, Removed, Shown, ShownDevice, ShownPlace, down, find, names, show, up
from pktmirror.lab.topology import DEMO, Host, Instance, Subnet, Topology, host_device, load, networks_toml

__all__ = [
    "DEMO",
    "Host",
    "Instance",
    "Lab",
    "Removed",
    "Shown",
    "ShownDevice",
    "ShownPlace",
    "Subnet",
    "Topology",
    "down",
    "find",
    "host_device",
    "load",
    "names",
    "networks_toml",
    "show",
    "up",
]
