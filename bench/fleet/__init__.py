"""The tables and queries of deploy/fleet on ClickHouse's engine, with a made fleet."""
