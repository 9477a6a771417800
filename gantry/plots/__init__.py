"""Pictures of what runs measured."""
