"""Studies: many ordinary runs over a grid of settings and seeds, the stages they share, and their results."""
