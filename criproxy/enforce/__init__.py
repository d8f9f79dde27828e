"""Applies rules and profiles to calls.

A policy decides which streams are held, and with which handler. The handler evaluates the rules
that match a call, carries out their effects and commands the held stream.
"""
