"""Studies: many runs planned as one, carried out, and what they say together."""
