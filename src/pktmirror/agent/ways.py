"""Whether copies may leave a host as super-packets (decision 0011). Pure."""

from pktmirror.kernel.netlink import Link
from pktmirror.model.underlay import Segmentation

_BRIDGE = "bridge"


def is_card(link: Link) -> bool:
    """Whether the device is a network card, behind which no CPU of this host has to do with what is sent."""
    return link.ethernet and link.kind is None


def splits(link: Link) -> bool:
    """Whether what is sent through the device, outer headers before it, becomes packets of wire size with complete
    checksums before anybody can look at it.

    A network card does so, or its driver lets the kernel do it. A bridge has no offloads for tunnels of its own,
    whatever its ports have, so the kernel splits what is sent through it (netif_skb_features, hw_enc_features). A veth
    or a tap may hand it on as it is, to somebody who looks at it.
    """
    return is_card(link) or link.kind == _BRIDGE


def leaves_whole(segmentation: Segmentation, device_splits: bool) -> bool:
    """Whether a super-packet may leave by the device: the operator's word, or what is known of the device."""
    match segmentation:
        case Segmentation.HOST:
            return False
        case Segmentation.UNDERLAY:
            return True
        case Segmentation.AUTO:
            return device_splits


def leaves_ahead(segmentation: Segmentation, device_is_card: bool) -> bool:
    """Whether what leaves whole need not wait until production is handed on: on its way to a card it takes no place in
    a queue of this host's CPUs that production needs."""
    return device_is_card or segmentation is Segmentation.UNDERLAY
