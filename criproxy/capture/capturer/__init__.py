"""The capturer: the process that keeps the last records of all workers, and writes cassettes.

- ``server``: its life, by the supervisor's commands.
- ``recording``: the records by one configuration, from the workers to cassettes.
- ``numbering``: numbers of connections and calls that are unique in the daemon.
- ``directory``: the cassettes in the directory, as many as may be.
"""
