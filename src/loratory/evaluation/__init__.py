"""How good it is: metrics, kept predictions, and the baselines every method has to beat."""
