"""What the store keeps, as frozen values: one for each resource of the API, and one each for interfaces and hosts."""

import functools
from dataclasses import dataclass
from ipaddress import ip_address

from pktmirror.desired import FoundInterface
from pktmirror.model.filter import NetworkService, Rule
from pktmirror.model.ids import Prefix, derived_id
from pktmirror.model.target import Target
from pktmirror.networks import Address, Networks

NO_PRIMARY_ADDRESS = (
    "no primary address is known: its provider tells none, the host's neighbour table no IPv4 address, and none is "
    "declared (`pktmirror network set-address`)"
)


@dataclass(frozen=True, slots=True)
class TargetRecord:
    target_id: str
    target: Target
    description: str | None = None


@dataclass(frozen=True, slots=True)
class FilterRecord:
    filter_id: str
    services: frozenset[NetworkService] = frozenset()
    description: str | None = None


@dataclass(frozen=True, slots=True)
class RuleRecord:
    rule_id: str
    filter_id: str
    rule: Rule
    description: str | None = None


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """``packet_bytes_max`` is what the user asked for; None leaves the default of the target's type.

    ``target_account_id`` is the number of the account that shares the target; empty for one of the session's own
    account.
    """

    session_id: str
    interface_id: str
    target_id: str
    filter_id: str
    number: int
    vni: int
    packet_bytes_max: int | None = None
    description: str | None = None
    target_account_id: str = ""


@dataclass(frozen=True, slots=True)
class ShareRecord:
    """A resource share of RAM. ``allows_external``: with accounts of other organisations, which here are all others."""

    share_id: str
    name: str
    allows_external: bool
    created_at_s: float
    updated_at_s: float


@dataclass(frozen=True, slots=True)
class SharedTargetRecord:
    """That a target is in a share; ``entry`` is both in one."""

    entry: str
    share_id: str
    target_id: str
    created_at_s: float


@dataclass(frozen=True, slots=True)
class InvitationRecord:
    """That an account is in a share, and what it said to that. ``receiver_id`` is its number, whether there is such an
    account or not; ``accepted`` None: nothing yet."""

    invitation_id: str
    share_id: str
    receiver_id: str
    invited_at_s: float
    accepted: bool | None = None
    answered_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class InterfaceRecord:
    """A network interface as its agent last found it; ``detached_at_s`` is None while it is there (spec 5.15).

    ``declared_address`` is what the declaration of networks says of it, kept in step with that.
    """

    interface_id: str
    host_id: str
    found: FoundInterface
    detached_at_s: float | None = None
    declared_address: str | None = None

    @property
    def attached(self) -> bool:
        return self.detached_at_s is None

    @property
    def addresses(self) -> tuple[str, ...]:
        """The primary one first: the operator's, else the provider's, else the neighbour table's (spec 5.14)."""
        found = self.found.addresses or self.found.neighbours[:1]
        if self.declared_address is None:
            return found
        return self.declared_address, *(address for address in self.found.addresses if address != self.declared_address)

    @property
    def address_from(self) -> str | None:
        """Who says what the primary address is."""
        if self.declared_address is not None:
            return "operator"
        if self.found.addresses:
            return "provider"
        return "neighbour table" if self.found.neighbours else None

    @property
    def primary_address(self) -> Address | None:
        return _address(self.addresses[0]) if self.addresses else None

    @property
    def not_mirrorable(self) -> str | None:
        """Why it cannot be a source: what its agent says, or that no address is known (spec 5.14)."""
        if self.found.not_mirrorable is not None:
            return self.found.not_mirrorable
        return NO_PRIMARY_ADDRESS if self.primary_address is None else None

    @property
    def instance_name(self) -> str | None:
        """As its engine calls it, else as its provider does."""
        return self.found.instance if self.found.facts is None else self.found.facts.name or self.found.instance

    @property
    def labels(self) -> dict[str, str]:
        return {} if self.found.facts is None else self.found.facts.labels

    @property
    def instance_id(self) -> str | None:
        """The namespace, container or machine it belongs to; None at a tap whose machine nobody tells, at a port, and
        for an interface of the host itself."""
        if self.found.instance is None:
            return None
        return derived_id(Prefix.INSTANCE, self.host_id, self.found.provider, self.found.instance)


def declared_address(networks: Networks, host_id: str, found: FoundInterface) -> str | None:
    """What the operator has declared for an interface, by its key or by the one that it has without its engine."""
    keys = [key for key in (found.key, found.plain_key) if key is not None]
    declared = (networks.addresses.get((host_id, key)) for key in keys)
    return next((str(address) for address in declared if address is not None), None)


@dataclass(frozen=True, slots=True)
class HostRecord:
    """A host whose agent has reported at least once."""

    host_id: str
    agent_version: str
    reported_at_s: float


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """A stream that a session has used at some time; ``entry`` is both in one."""

    entry: str
    session_id: str
    vni: int
    outer_source: str
    outer_destination: str


@dataclass(frozen=True, slots=True)
class EndedSessionRecord:
    """A session that was deleted, and what its agent last said that it had sent."""

    session_id: str
    sent_packets: int
    sent_bytes: int
    ended_at_s: float


@dataclass(frozen=True, slots=True)
class UnconfirmedEndRecord:
    """A session that was deleted, whose host has not said yet that it has applied this revision or a later one."""

    session_id: str
    host_id: str
    revision: int
    ended_at_s: float


@dataclass(frozen=True, slots=True)
class CarriedRecord:
    """What counters had come to before they began anew.

    ``subject`` is a session (sent, nothing written) or a stream (received and written).
    """

    subject: str
    packets: int
    bytes: int
    written_packets: int
    written_bytes: int


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """A create call that carried a client token: what it asked, by digest, and what it was answered, as JSON."""

    token_key: str
    fingerprint: str
    result: str
    created_at_s: float


@dataclass(frozen=True, slots=True)
class AccessKeyRecord:
    """An access key; the secret is sealed with the state directory's key.

    ``user_id`` empty: it is the root's. ``account_id`` empty: of the store's own account (docs/decisions/0018).
    """

    access_key_id: str
    sealed_secret: bytes
    created_at_s: float
    user_id: str = ""
    active: bool = True
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class JoinTokenRecord:
    """A token for a host to join with; ``host_id`` None is for one that is not known yet. Only a digest is kept."""

    token_id: str
    digest: bytes
    host_id: str | None
    expires_at_s: float
    used_by: str | None = None


@dataclass(frozen=True, slots=True)
class HostCertificateRecord:
    """A certificate that a host was given, by its serial number in hexadecimal."""

    serial: str
    host_id: str
    ends_at_s: float
    revoked_at_s: float | None = None


@dataclass(frozen=True, slots=True)
class AccountRecord:
    """An account beside the store's own one."""

    account_id: str
    name: str
    created_at_s: float


@dataclass(frozen=True, slots=True)
class UserRecord:
    user_id: str
    name: str
    created_at_s: float
    account_id: str = ""


@dataclass(frozen=True, slots=True)
class UserPolicyRecord:
    """A policy document of a user, as it was put; ``policy_key`` is user and name in one."""

    policy_key: str
    user_id: str
    name: str
    document: str


@dataclass(frozen=True, slots=True)
class AssignmentRecord:
    """What the operator has given to another account: an interface, or a VPC with all interfaces in it."""

    subject: str
    account_id: str


@functools.lru_cache(maxsize=65_536)
def _address(text: str) -> Address:
    """Each is asked for again and again."""
    return ip_address(text)
