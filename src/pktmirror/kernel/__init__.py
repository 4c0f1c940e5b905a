"""The edge to Linux: bpf(2), netlink and network namespaces. Knows nothing of sessions, filters or EC2."""
