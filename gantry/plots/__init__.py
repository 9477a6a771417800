"""Figures of what runs measured and of what agents learned."""
