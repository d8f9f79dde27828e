"""Puts criproxy in front of a node's kubelet, and takes it out again.

::

    layouts     where the kubelet of a distribution is told its runtime, and how to tell it another
    edits       changes in YAML files, lists of flags and unit files that leave the rest as it is
    planning    what is to be written, started and checked, in phases
    engine      carries a plan out step by step, or undoes what it has begun
    journal     keeps plan, staged files and originals on disk, so that the next run finds them
    tree        the files below a root: their states, and changes that are complete or not made

An installation and its removal are both transactions: a list of steps that is written down before
the first of them. A transaction that fails or is interrupted is undone; one that is killed is found
by the next run, which finishes or undoes it.
"""
