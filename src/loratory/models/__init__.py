"""What is trained from: weight files through one door, flat-token forward passes, classifier heads.

load.load_base ──▶ flat.forward (or padded) ──▶ logits
families.py holds what must be known of each architecture, once.
"""
