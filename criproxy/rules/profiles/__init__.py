"""Profiles of listeners: which methods, pods and fields their clients may see."""
