"""Models: their sources, the cache, loading, and the version that is served."""
