"""The class ladder that agents are being moved off; it goes when the last one has left."""
