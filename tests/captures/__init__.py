"""Captures that others published, as a touchstone: what we read of a frame, Wireshark's engine must read too.

PKTMIRROR_CAPTURES names the folder; the default lies beside the repository. Without it these tests use captures
that they make themselves.
"""
