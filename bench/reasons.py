"""Why a bar is missed, by its claim: what stands in docs/benchmarks.md below a claim that a run has missed.

No figures: those are in the table, and go with the run.
"""

from collections.abc import Mapping

from bench import classification, control, round_trip, small_packets, throughput

CREATES = (
    "an answer waits until its change is on the disk (docs/decisions/0019), and the client that sends, the server and "
    "its store share the CPUs."
)
ON_ONE_PROCESS = (
    "the control plane is one process of Python, which writes each host its own answer over its own TLS connection, "
    "and shares the CPUs with the hosts that read them."
)
SHARED_READING = (
    "after a change the control plane reads all sessions, and the interfaces that they and targets are of, once "
    "(docs/decisions/0023): that goes with their number, on whichever host they are."
)

REASONS: Mapping[str, str] = {
    throughput.FULL: (
        "each super-packet is cloned once, gets its outer headers once and leaves whole, as from the kernel's vxlan "
        "device. So where the kernel segments (the uplink that does not, the bridge of the same host) ours and the "
        "peers pay for the same work, which is most of it: splitting, and summing every byte. There is little left to "
        "be better at. Behind a card nothing of that is left, but the far end of the uplink is on the same two CPUs "
        "here: each copy is also received, counted and dropped by the CPUs that the transfer fills, which a card does "
        "not ask of its host. How much that is was not measured apart. Where each copy is cut to fit, the peers send "
        "two fragments for each packet instead, and there ours is ahead."
    ),
    throughput.CUT: (
        "a cut copy is dearer than a full one where super-packets are mirrored. The kernel cuts packets, not "
        "super-packets (`bpf_skb_change_tail` makes one short packet of all of it), so each super-packet is split "
        "first, with the checksum of every packet summed over all of its bytes; then each packet is cut, gets headers "
        "of its own, and goes alone through the splitting hop and by the route, where a full copy goes through all of "
        "that once for some forty packets. It spares the underlay's bytes and the collector's disk, not this host's "
        "CPUs. Over an MTU of 1500 a full copy has to be split and cut as well, so there it is as cheap as a full "
        "one, and the peers pay for fragments. Not done: to make the short packets without splitting all of the "
        "super-packet first."
    ),
    throughput.BOUNDED: (
        "the budget is a number, 10,000 packets/s of each CPU, and no share of its time: what a copy costs differs by "
        "its way (docs/decisions/0009), and is most where each packet leaves by itself, over an MTU of 1500 and over "
        "the bridge of the same host. What is capped is still parsed, decided and counted. How far the turns lie apart "
        "is `production_kept_min_max` in the result; a transfer without a mirror varies as well."
    ),
    small_packets.ADDED: (
        "most of it is the way of the copy, which the kernel goes: clone, the queue of the finishing hop and its poll, "
        "the neighbour table, the bridge with its hooks, the target's device. The hop keeps copies out of "
        "production's queue and gives them wire size (docs/decisions/0008); the kernel's own means have no such "
        "queue, and instead a second device that encapsulates. Past the bridge, where the operator allows it, the way "
        "is shorter (docs/decisions/0021)."
    ),
    small_packets.NOTHING: (
        "the packet is parsed, held against what is never mirrored, looked up among the flows that are remembered, "
        "and counted for its interface and session. How far the turns lie apart is `added_ns_min_max` in the result."
    ),
    classification.FIRST_PACKET: (
        "a million flows in turn find neither the nodes of the trees nor the rules in the near caches of the CPU, and "
        "each is written down for a next packet that does not come in time (`new flows` against `not remembered` in "
        "the result). Filters can be made that no tree can part (docs/decisions/0007): the worst that is known, ports "
        "one within the other, is asked rule by rule at a leaf."
    ),
    round_trip.LATENCY: (
        "the copies of both directions are made on the CPUs of the two processes that play ping-pong, each behind the "
        "packet that it is a copy of. Where CPUs halt between packets, waking up is most of a round trip, and copying "
        "falls into it; where they never do, it is in the way of the next packet."
    ),
    **dict.fromkeys(
        (control.OF_THE_PLANE.format(f"creates on {store}") for store in ("SQLite", "PostgreSQL")), CREATES
    ),
    control.OF_THE_PLANE.format("a page of 1,000 of 100,000 sessions"): (
        "what a page costs goes with the sessions that it holds, which one process of Python reads and writes."
    ),
    control.OF_THE_PLANE.format("from a change to the kernel"): (
        "agent, control plane and its client are processes of Python on the same CPUs: the change is on the disk, told "
        "to the agent that waits for it, planned and put into the kernel, one after the other."
    ),
    control.OF_THE_PLANE.format("from a change to 2,000 hosts"): ON_ONE_PROCESS,
    control.OF_THE_PLANE.format("a change among 10,000 hosts"): SHARED_READING,
}
