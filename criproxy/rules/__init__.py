"""What to do with a call: facts in, a verdict with its reason out. Pure."""
