"""Shows: policies that play, and viewers that watch them."""
