"""What agents hold: one part a file, each useful on its own."""
