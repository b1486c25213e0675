"""What `scripts/bench` measures, where, and how it is drawn."""
