"""The opt-outs: pure, no I/O, no clock, no logging."""
