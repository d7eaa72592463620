"""The shows: policies that play on a stage, and viewers that watch them."""
