"""What is to be done: from the state of a tree to a transaction.

- ``proxy``: criproxy's configuration, and in front of which runtime it stands.
- ``changes``: collects changes of files, with the directories that they need.
- ``install``, ``uninstall``: the transactions.
"""
