"""Skills: trained policies as the actions of a level above, which decides when they end."""
