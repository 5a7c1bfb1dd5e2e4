"""A deterministic simulator: the real follower, feeds and publishers in a scripted world."""
