"""The ranges and quotas of the service (spec 1.5, 1.8, 1.13, 5.4 to 5.6) and of this version's data plane."""

from dataclasses import dataclass

SESSION_NUMBER_MIN, SESSION_NUMBER_MAX = 1, 32766
VNI_MIN, VNI_MAX = 1, (1 << 24) - 1
PACKET_BYTES_MIN, PACKET_BYTES_MAX = 1, 8500

# What bpf/abi.h holds room for; test_abi compares them.
DATA_PLANE_RULES_PER_FILTER = 10_000
DATA_PLANE_SESSIONS_PER_INTERFACE = 64
RESOLVERS_PER_VPC = 8


@dataclass(frozen=True, slots=True)
class Quotas:
    """The published defaults of AWS; an operator may change each within what the data plane holds (spec 5.13)."""

    sessions_per_account: int = 10_000
    sessions_per_interface: int = 3
    targets_per_account: int = 10_000
    filters_per_account: int = 10_000
    rules_per_filter: int = 10
    sources_per_interface_target: int = 10
    sessions_per_target: int = 1_000_000
    """AWS has an error for it and publishes no number: none is reached before the account's own."""
