"""How it is trained: one loop, one meter. The engine knows models and arrays, and no files."""
