"""A study: a grid of runs, how it is carried out, and what may be concluded from it."""
