"""Evaluates the rules of one call and carries out their effects."""
