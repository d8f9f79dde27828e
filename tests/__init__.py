"""The tests, one directory a room of criproxy, and beside them support/, properties/ and e2e/."""
