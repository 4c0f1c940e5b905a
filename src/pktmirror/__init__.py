"""pktmirror: VPC Traffic Mirroring for a Linux network of your own. ARCHITECTURE.md tells how its rooms fit."""

__version__ = "0.1.0"
