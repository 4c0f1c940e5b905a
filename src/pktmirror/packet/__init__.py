"""Bytes and what they mean: frames, VXLAN datagrams, checksums, capture files. No I/O, no clock, nothing of ours."""
