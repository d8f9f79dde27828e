"""What the supervisor answers over HTTP: the pages, and the admin socket with live calls."""
