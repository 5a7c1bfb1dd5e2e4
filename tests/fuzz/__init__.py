"""Fuzzing of whatever reads bytes that somebody else wrote. `python -m fuzz --help` tells how."""
