"""The page at /ui: its files, its security headers, and the figures that are sent to it live."""
