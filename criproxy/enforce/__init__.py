"""What rules do to calls: the room between the rules, which are pure, and the relay.

A Policy says which streams are held, and by what handler. The handler leads one call through the
rules that match it, and waits where they have it wait; nothing here reads or writes a socket of the
relay's.
"""
