"""What a session, a filter, a rule and a target are, and what a filter decides. Pure: no I/O, no clock."""
