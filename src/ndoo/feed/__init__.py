"""How snapshots and changes arrive."""
