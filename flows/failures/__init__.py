"""What can go wrong, in sentences: errors, outages, environments that fail, and interruptions."""
