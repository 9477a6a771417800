"""Measurements that a claim of speed or of learning rests on: each side by side with a peer, in one run."""
