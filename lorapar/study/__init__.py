"""Studies: many ordinary runs over a grid of settings and seeds, what they share, and what comes out of them."""
