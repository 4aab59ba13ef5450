"""`make dashboards-check`: every panel filled by a real run, and drawn."""
