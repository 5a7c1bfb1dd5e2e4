"""The writing side: changes are appended, snapshots taken, histories trimmed."""
